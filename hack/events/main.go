// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Command events writes the TypeScript of api/stream to its standard output:
//
//   - a string type of which constants exist becomes the union of their values,
//   - a struct becomes an interface with the JSON names of its fields, an
//     embedded one is extended, a field that may be left out is optional,
//   - a constant EventX of type Name carries the type X, so that the name of an
//     event tells the type of its data,
//   - comments are kept.
//
// It refuses what it does not know rather than guess. The generators that one
// can have were tried first: tygo took an embedded struct for a field and gave
// no union; guts is a library of 20 MB that needs a program such as this one
// around it. Neither knows what the name of an event carries.
package main

import (
	"bytes"
	"fmt"
	"os"
)

// source is the package, from the root of the repository.
const source = "api/stream"

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "events:", err)
		os.Exit(1)
	}
}

func run() error {
	p, err := load(os.DirFS(source))
	if err != nil {
		return fmt.Errorf("reading %s: %w", source, err)
	}
	var out bytes.Buffer
	p.write(&out)
	_, err = os.Stdout.Write(out.Bytes())
	return err
}

// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Command image builds the manager's image, for each platform, as an OCI layout in
// a tar file, with no container engine; and pushes it. The same commit gives the
// same bytes.
//
//	image build [-out FILE] [-platforms LIST] [-version VERSION] [-revision COMMIT]
//	image push [-from FILE] REFERENCE
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
)

// defaultFile is where `make image` puts the image.
const defaultFile = "bin/chatrun-operator.tar"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("say build or push")
	}
	fs := flag.NewFlagSet("image "+args[0], flag.ContinueOnError)
	switch args[0] {
	case "build":
		b := recipe{}
		out := fs.String("out", defaultFile, "the tar file to write")
		platforms := fs.String("platforms", "linux/amd64,linux/arm64", "what to build for, separated by commas")
		fs.StringVar(&b.Root, "root", ".", "the repository")
		fs.StringVar(&b.Version, "version", "dev", "the version that the image says it is")
		fs.StringVar(&b.Revision, "revision", "", "the commit that the image says it is of")
		if err := fs.Parse(args[1:]); err != nil {
			return err
		}
		b.Platforms = strings.Split(*platforms, ",")
		digest, err := b.build(ctx, *out)
		if err != nil {
			return err
		}
		fmt.Println(filepath.Base(*out), digest)
		return nil
	case "push":
		from := fs.String("from", defaultFile, "the tar file to push")
		if err := fs.Parse(args[1:]); err != nil {
			return err
		}
		if fs.NArg() != 1 {
			return errors.New("push takes one reference, such as registry.example/chatrun-operator:v1")
		}
		pushed, err := push(ctx, *from, fs.Arg(0))
		if err != nil {
			return err
		}
		fmt.Println(pushed)
		return nil
	}
	return fmt.Errorf("%q is neither build nor push", args[0])
}

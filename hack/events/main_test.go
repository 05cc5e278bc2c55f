// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"testing/fstest"
)

const sample = `// Package stream is a sample.
package stream

import "time"

const (
	// EventDone carries Done.
	EventDone Name = "done"
	EventPart Name = "a_part"
)

// Name has values.
type Name string

// Word has none.
type Word string

// Part is the first.
//
// It ends here: */
type Part struct {
	Role Word      ` + "`json:\"role\"`" + `
	At   time.Time ` + "`json:\"at,omitzero\"`" + `
	// Sizes are many.
	Sizes []int64 ` + "`json:\"sizes,omitempty\"`" + `
}

type Done struct {
	Part
	Good bool ` + "`json:\"good\"`" + `
}

type hidden struct{}

func Ignored() {}
`

const want = `// Package stream is a sample.

/** Name has values. */
export type Name =
  | "done"
  | "a_part";

/** Word has none. */
export type Word = string;

/**
 * Part is the first.
 *
 * It ends here: * /
 */
export interface Part {
  role: Word;
  at?: string;
  /** Sizes are many. */
  sizes?: number[];
}

export interface Done extends Part {
  good: boolean;
}

/** EventData tells by the name of an event what its data is. */
export interface EventData {
  /** EventDone carries Done. */
  done: Done;
  a_part: Part;
}

/** eventNames are the names of all events. */
export const eventNames: readonly Name[] = [
  "done",
  "a_part",
];
`

func generate(source string) (string, error) {
	p, err := load(fstest.MapFS{"a.go": {Data: []byte(source)}, "a_test.go": {Data: []byte("no Go")}})
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	p.write(&out)
	return strings.TrimPrefix(out.String(), head), nil
}

func TestGenerate(t *testing.T) {
	got, err := generate(sample)
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestRefused: what is not known is refused, and never guessed.
func TestRefused(t *testing.T) {
	events := "package stream\ntype Name string\nconst EventDone Name = \"done\"\ntype Done struct{}\n"
	if _, err := generate(events); err != nil {
		t.Fatalf("what is good is refused: %v", err)
	}
	for what, more := range map[string]string{
		"an event without data":   `const EventOther Name = "other"`,
		"a name without a prefix": `const Other Name = "done"`,
		"a name that is computed": `const EventDone2 Name = "do" + "ne"`,
		"a name with a hyphen":    "const EventDone2 Name = \"do-ne\"\ntype Done2 struct{}",
		"a field with a hyphen":   "type T struct { A string `json:\"a-b\"` }",
		"an untyped constant":     `const Limit = 3`,
		"a constant of a struct":  `const Odd Done = "odd"`,
		"a field without a name":  "type T struct { A string }",
		"a field left out":        "type T struct { A string `json:\"-\"` }",
		"a map":                   "type T struct { A map[string]string `json:\"a\"` }",
		"a foreign type":          "type T struct { A time.Duration `json:\"a\"` }",
		"a type that is missing":  "type T struct { A []Missing `json:\"a\"` }",
		"an embedded stranger":    "type T struct { Missing }",
		"an embedded string":      "type T struct { Name }",
		"an embedded import":      "type T struct { time.Time }",
		"a named number":          "type T int",
		"an interface":            "type T interface{}",
	} {
		t.Run(what, func(t *testing.T) {
			if got, err := generate(events + more); err == nil {
				t.Errorf("accepted:\n%s", got)
			}
		})
	}
	if _, err := generate("package stream"); err == nil {
		t.Error("a package without events was accepted")
	}
}

// TestThisPackage: the program reads the real package.
func TestThisPackage(t *testing.T) {
	t.Chdir("../..")
	p, err := load(os.DirFS(source))
	if err != nil {
		t.Fatal(err)
	}
	if d := p.find("Done"); d == nil || len(d.extends) != 1 || d.extends[0] != "Status" {
		t.Errorf("Done does not extend Status: %+v", d)
	}
	if r := p.find("Retry"); r == nil || r.fields[len(r.fields)-1] != (field{"retryingAt", "RetryingAt is when the wait ends, as in status.retryingAt.\n", "string", false}) {
		t.Errorf("retryingAt is %+v", r)
	}
}

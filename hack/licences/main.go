// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Command licences lists the modules that are in the product's programs with the
// licences that their texts are, and fails if one is not allowed. `make licences`
// writes docs/licences.md by it, and `make verify` runs it.
//
//	licences MODULE-DIRECTORY PACKAGE… [-- MODULE-DIRECTORY PACKAGE…]
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/licenseclassifier/v2/assets"
)

// allowed are licences that ask for no more than that their text comes along.
var allowed = []string{"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT"}

// licenceFile is what a licence's text is called.
var licenceFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying)(\.(md|txt|rst|mit))?$`)

const (
	// certain is how sure the classifier has to be that a text is a licence's.
	certain = 0.9
	// licenceType is what it calls a licence, and not a part or a head of one.
	licenceType = "License"
)

// module is as `go list` tells of it.
type module struct {
	Path, Version, Dir string
	Main               bool
	Replace            *module
	// licences are what its texts are.
	licences []string
}

func main() {
	if err := run(context.Background(), os.Stdout, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "licences:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, args []string) error {
	var modules []module
	for {
		one, more := args, []string(nil)
		if i := slices.Index(args, "--"); i >= 0 {
			one, more = args[:i], args[i+1:]
		}
		if len(one) < 2 {
			return errors.New("say the directory of a module, and packages in it")
		}
		found, err := list(ctx, one[0], one[1:])
		if err != nil {
			return err
		}
		modules = append(modules, found...)
		if args = more; args == nil {
			break
		}
	}
	modules = unique(modules)
	classify, err := classifier()
	if err != nil {
		return err
	}
	var wrong []string
	for i := range modules {
		m := &modules[i]
		if m.licences, err = licencesOf(m.Dir, classify); err != nil {
			return fmt.Errorf("%s: %w", m.Path, err)
		}
		if problem := m.problem(); problem != "" {
			wrong = append(wrong, m.Path+" "+m.Version+": "+problem)
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("not allowed:\n  %s", strings.Join(wrong, "\n  "))
	}
	_, err = io.WriteString(out, page(modules))
	return err
}

// ours is this repository's own module, in a program that is one of its own.
const ours = "chatrun.dev/operator"

// platforms are those that programs are built for: the image's, and the plugin's.
var platforms = []string{"linux/amd64", "linux/arm64", "darwin/arm64", "windows/amd64"}

// unique sorts modules, and drops those that are there twice.
func unique(modules []module) []module {
	slices.SortFunc(modules, func(a, b module) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Version, b.Version))
	})
	return slices.CompactFunc(modules, func(a, b module) bool { return a.Path == b.Path && a.Version == b.Version })
}

// list returns the modules whose packages are in the programs, on any platform.
func list(ctx context.Context, dir string, packages []string) ([]module, error) {
	found := map[string]module{}
	for _, platform := range platforms {
		system, arch, _ := strings.Cut(platform, "/")
		cmd := exec.CommandContext(ctx, "go", append([]string{"list", "-deps", "-json=Module"}, packages...)...)
		cmd.Dir, cmd.Env, cmd.Stderr = dir, append(os.Environ(), "GOOS="+system, "GOARCH="+arch, "CGO_ENABLED=0"), os.Stderr
		said, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("listing what %v need: %w", packages, err)
		}
		for decoder := json.NewDecoder(strings.NewReader(string(said))); ; {
			var p struct{ Module *module }
			if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return nil, err
			}
			if m := p.Module; m != nil && !m.Main && m.Path != ours {
				if m.Replace != nil {
					m = m.Replace
				}
				found[m.Path] = *m
			}
		}
	}
	modules := make([]module, 0, len(found))
	for _, m := range found {
		modules = append(modules, m)
	}
	if len(modules) == 0 {
		return nil, fmt.Errorf("%v need no module", packages)
	}
	return modules, nil
}

// classifier returns what tells which licences a text is.
func classifier() (func(text []byte) []string, error) {
	c, err := assets.DefaultClassifier()
	if err != nil {
		return nil, fmt.Errorf("reading the texts of licences: %w", err)
	}
	return func(text []byte) []string {
		var names []string
		for _, m := range c.Match(text).Matches {
			if m.MatchType == licenceType && m.Confidence >= certain {
				names = append(names, m.Name)
			}
		}
		return names
	}, nil
}

// licencesOf returns the licences whose texts lie in a directory. A file whose text is
// no known licence counts as one without a name.
func licencesOf(dir string, classify func([]byte) []string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() || !licenceFile.MatchString(e.Name()) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		known := classify(text)
		if len(known) == 0 {
			known = []string{""}
		}
		names = append(names, known...)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// problem says why a module may not be used; empty if it may.
func (m module) problem() string {
	if len(m.licences) == 0 {
		return "it has no licence"
	}
	for _, name := range m.licences {
		switch {
		case name == "":
			return "it has a licence whose text is not known"
		case !slices.Contains(allowed, name):
			return "its licence is " + name
		}
	}
	return ""
}

// page is what docs/licences.md says.
func page(modules []module) string {
	var out strings.Builder
	fmt.Fprintf(&out, `# Licences

Generated by `+"`make licences`"+`; `+"`make verify`"+` checks it. These modules are in the programs that this repository builds for
users, beside Go's own library (BSD-3-Clause). Allowed are %s.

| module | version | licence |
|---|---|---|
`, strings.Join(allowed, ", "))
	for _, m := range modules {
		fmt.Fprintf(&out, "| %s | %s | %s |\n", m.Path, m.Version, strings.Join(m.licences, ", "))
	}
	return out.String()
}

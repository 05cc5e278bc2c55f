// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/yuin/goldmark/ast"
)

// leads returns the pages that one leads to.
func (p *page) leads() map[string]bool {
	led := map[string]bool{}
	p.walk(func(n ast.Node) {
		if link, ok := n.(*ast.Link); ok {
			file, _, _ := strings.Cut(string(link.Destination), "#")
			led[path.Join(path.Dir(p.name), file)] = true
		}
	})
	return led
}

// TestIndex: docs/README.md leads to each page of docs, and the README to it and to the
// quick start.
func TestIndex(t *testing.T) {
	all := pages(t)
	led := all["docs/README.md"].leads()
	for name := range all {
		if path.Dir(name) == "docs" && name != "docs/README.md" && !led[name] {
			t.Errorf("docs/README.md does not lead to %s: add a row", name)
		}
	}
	for _, name := range []string{"docs/README.md", "docs/quickstart.md"} {
		if !all["README.md"].leads()[name] {
			t.Errorf("README.md does not lead to %s", name)
		}
	}
}

// TestFiveCommands: the quick start has five, each of them is typed by TestCommands, and
// the last one follows a run to its end.
func TestFiveCommands(t *testing.T) {
	var five []command
	for _, c := range pages(t)["docs/quickstart.md"].commands() {
		if c.section == "Five commands" && !c.inline {
			five = append(five, c)
		}
	}
	if len(five) != 5 {
		t.Fatalf("there are %d: %+v", len(five), five)
	}
	for _, c := range five {
		if name := exceptionOf(c); name != "" {
			t.Errorf("%q is not typed, but is the exception %q", c.text, name)
		}
	}
	last := five[4]
	if !strings.HasPrefix(last.text, "curl -N ") || !slices.Contains(last.shown, "event: done") {
		t.Errorf("no run is followed to its end by %q", last.text)
	}
}

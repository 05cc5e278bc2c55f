// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Package docs holds the pages for people against what they tell of: the API's
// reasons, the manager's flags, the targets of make, each other, and the API server.
package docs

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	extensionast "github.com/yuin/goldmark/extension/ast"
	"github.com/yuin/goldmark/text"
)

// root is the repository's.
var root = filepath.Join("..", "..")

// page is one for people.
type page struct {
	// name is its path from the root.
	name   string
	source []byte
	tree   ast.Node
}

func newPage(name string, source []byte) *page {
	markdown := goldmark.New(goldmark.WithExtensions(extension.GFM))
	return &page{name: name, source: source, tree: markdown.Parser().Parse(text.NewReader(source))}
}

// pages returns all of them, by their names.
func pages(t *testing.T) map[string]*page {
	t.Helper()
	all, err := read()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// read reads them once for all tests.
var read = sync.OnceValues(func() (map[string]*page, error) {
	all := map[string]*page{}
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/decisions/*.md", "web/README.md"} {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil || len(files) == 0 {
			return nil, fmt.Errorf("no page is called %s: %w", pattern, err)
		}
		for _, file := range files {
			source, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			name, err := filepath.Rel(root, file)
			if err != nil {
				return nil, err
			}
			all[filepath.ToSlash(name)] = newPage(filepath.ToSlash(name), source)
		}
	}
	return all, nil
})

// lineAt returns the number of the line of an offset.
func (p *page) lineAt(offset int) int { return bytes.Count(p.source[:offset], []byte{'\n'}) + 1 }

// walk visits every node of a page.
func (p *page) walk(visit func(ast.Node)) {
	_ = ast.Walk(p.tree, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if entering {
			visit(n)
		}
		return ast.WalkContinue, nil
	})
}

// words are what stands under a node, as one reads it.
func (p *page) words(n ast.Node) string {
	var out strings.Builder
	_ = ast.Walk(n, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if t, ok := n.(*ast.Text); ok && entering {
			out.Write(t.Segment.Value(p.source))
		}
		return ast.WalkContinue, nil
	})
	return out.String()
}

// code returns the blocks of code with their languages, each with the line that it
// begins in.
func (p *page) code() []block {
	var blocks []block
	p.walk(func(n ast.Node) {
		language := ""
		switch c := n.(type) {
		case *ast.FencedCodeBlock:
			language = string(c.Language(p.source))
		case *ast.CodeBlock:
		default:
			return
		}
		var out strings.Builder
		first := 0
		for i := range n.Lines().Len() {
			segment := n.Lines().At(i)
			if i == 0 {
				first = p.lineAt(segment.Start)
			}
			out.Write(segment.Value(p.source))
		}
		blocks = append(blocks, block{language: language, text: out.String(), line: first})
	})
	return blocks
}

type block struct {
	language, text string
	line           int
}

// section returns the tables' rows under a heading, as the words of their cells.
func (p *page) section(heading string) [][]string {
	var rows [][]string
	inside, level := false, 0
	p.walk(func(n ast.Node) {
		if h, ok := n.(*ast.Heading); ok {
			if p.words(h) == heading {
				inside, level = true, h.Level
			} else if h.Level <= level {
				inside = false
			}
		}
		row, ok := n.(*extensionast.TableRow)
		if !ok || !inside {
			return
		}
		var cells []string
		for c := row.FirstChild(); c != nil; c = c.NextSibling() {
			cells = append(cells, p.words(c))
		}
		rows = append(rows, cells)
	})
	return rows
}

// dropped are the characters of a heading that its anchor lacks.
var dropped = regexp.MustCompile(`[^\p{L}\p{N}\- _]`)

// slug is the anchor that a heading gets where the pages are shown.
func slug(heading string) string {
	return strings.ReplaceAll(dropped.ReplaceAllString(strings.ToLower(heading), ""), " ", "-")
}

// anchors of a page.
func (p *page) anchors() map[string]bool {
	found := map[string]bool{}
	p.walk(func(n ast.Node) {
		if h, ok := n.(*ast.Heading); ok {
			found[slug(p.words(h))] = true
		}
	})
	return found
}

// TestLinks: each leads to a file that is there, and to a heading in it.
func TestLinks(t *testing.T) {
	all, anchors := pages(t), map[string]map[string]bool{}
	for name, p := range all {
		anchors[name] = p.anchors()
	}
	checked := 0
	for _, name := range slices.Sorted(maps.Keys(all)) {
		p := all[name]
		p.walk(func(n ast.Node) {
			target := ""
			switch l := n.(type) {
			case *ast.Link:
				target = string(l.Destination)
			case *ast.Image:
				target = string(l.Destination)
			}
			if target == "" || strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				return
			}
			checked++
			file, anchor, _ := strings.Cut(target, "#")
			to := name
			if file != "" {
				to = filepath.ToSlash(filepath.Join(filepath.Dir(name), file))
			}
			if _, err := os.Stat(filepath.Join(root, to)); err != nil {
				t.Errorf("%s: no file %s", name, target)
				return
			}
			if anchor != "" && !anchors[to][anchor] {
				t.Errorf("%s: no heading %s", name, target)
			}
		})
	}
	if checked < 100 {
		t.Errorf("%d links were found", checked)
	}
}

// TestTargets: what the pages tell to make, make knows.
func TestTargets(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^([a-z-]+):`).FindAllStringSubmatch(string(raw), -1) {
		known[m[1]] = true
	}
	told := map[string]bool{}
	command := regexp.MustCompile("(?m)(?:^|[`(]| && )make ((?:-s )?[a-z][a-z -]*[a-z])")
	for name, p := range pages(t) {
		if strings.HasPrefix(name, "docs/decisions/") {
			continue // they tell of their day
		}
		check := func(words string) {
			for _, m := range command.FindAllStringSubmatch(words, -1) {
				for target := range strings.FieldsSeq(strings.TrimPrefix(m[1], "-s ")) {
					told[target] = true
					if !known[target] {
						t.Errorf("%s: there is no make %s", name, target)
					}
				}
			}
		}
		for _, b := range p.code() {
			check(b.text)
		}
		p.walk(func(n ast.Node) {
			if _, ok := n.(*ast.CodeSpan); ok {
				check(p.words(n))
			}
		})
	}
	for target := range known {
		if !told[target] && target != "help" {
			t.Errorf("no page tells of make %s", target)
		}
	}
}

// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestFinalReasonsAreAll: what the API says that a run may end with, and nothing else.
func TestFinalReasonsAreAll(t *testing.T) {
	parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", "..", "api", "v1alpha1", "chatrun_status.go"), nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	var final []string
	ast.Inspect(parsed, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || !strings.HasPrefix(spec.Names[0].Name, "Reason") {
			return true
		}
		// Those of a run that goes on say Unknown, and some both.
		if doc := spec.Doc.Text(); !strings.Contains(doc, "Unknown") || strings.Contains(doc, "False") {
			final = append(final, strings.TrimPrefix(spec.Names[0].Name, "Reason"))
		}
		return true
	})
	want := slices.Sorted(slices.Values(final))
	if got := slices.Sorted(slices.Values(finalReasons)); len(final) < 20 || !slices.Equal(got, want) {
		t.Errorf("%q\nand the API has\n%q", got, want)
	}
}

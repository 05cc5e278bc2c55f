// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// constants returns those of a file of api/v1alpha1 whose names begin with a prefix.
func constants(t *testing.T, prefix string, files ...string) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, "api", "v1alpha1", file), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok {
				return true
			}
			for i, name := range spec.Names {
				if !strings.HasPrefix(name.Name, prefix) || i >= len(spec.Values) {
					continue
				}
				if literal, ok := spec.Values[i].(*ast.BasicLit); ok && literal.Kind == token.STRING {
					value, err := strconv.Unquote(literal.Value)
					if err != nil {
						t.Fatal(err)
					}
					found[value] = true
				}
			}
			return true
		})
	}
	if len(found) == 0 {
		t.Fatalf("no constant begins with %s", prefix)
	}
	return found
}

// TestReasons: the page of a kind tells of each condition and each reason, and of none
// that there is not.
func TestReasons(t *testing.T) {
	all := pages(t)
	for _, tc := range []struct {
		page  string
		files []string
		// column is where the tables of conditions have the reason.
		column int
	}{
		{"docs/chatrun.md", []string{"chatrun_status.go", "chatrun_types.go"}, 0},
		{"docs/chatprovider.md", []string{"chatprovider_types.go"}, 1},
	} {
		reasons, told := constants(t, "Reason", tc.files...), map[string]bool{}
		for _, row := range all[tc.page].section("Conditions") {
			told[row[tc.column]] = true
			if !reasons[row[tc.column]] {
				t.Errorf("%s: there is no reason %q", tc.page, row[tc.column])
			}
			if len(row) <= tc.column+2 || row[tc.column+1] == "" || row[tc.column+2] == "" {
				t.Errorf("%s: what %s means, or what to do, is not said", tc.page, row[tc.column])
			}
		}
		for _, name := range slices.Sorted(maps.Keys(reasons)) {
			if !told[name] {
				t.Errorf("%s: no table tells of the reason %s", tc.page, name)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(constants(t, "Condition", tc.files...))) {
			if !strings.Contains(string(all[tc.page].source), "**`"+name+"`**") {
				t.Errorf("%s: nothing tells of the condition %s", tc.page, name)
			}
		}
	}
}

// TestFlags: docs/operations.md has each flag of the manager, and no other.
func TestFlags(t *testing.T) {
	help, err := exec.CommandContext(t.Context(), "go", "run", "-C", root, "./cmd/manager", "--help").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, help)
	}
	there := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^  -([a-z-]+)`).FindAllStringSubmatch(string(help), -1) {
		there[m[1]] = true
	}
	told := map[string]bool{}
	for _, row := range pages(t)["docs/operations.md"].section("Flags") {
		for _, m := range regexp.MustCompile(`--([a-z-]+)`).FindAllStringSubmatch(row[0], -1) {
			told[m[1]] = true
			if !there[m[1]] {
				t.Errorf("there is no --%s", m[1])
			}
		}
	}
	for name := range there {
		if !told[name] && !strings.HasPrefix(name, "zap-") { // of which the page tells together
			t.Errorf("no row tells of --%s", name)
		}
	}
	if len(there) < 30 {
		t.Errorf("%d flags were found", len(there))
	}
}

// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// texts returns the known text of a licence, from what the classifier goes by.
func texts(t *testing.T, licence string) []byte {
	t.Helper()
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/google/licenseclassifier/v2").Output()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), "assets", "License", licence, "*.txt"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no text of %s, %v", licence, err)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestWhatIsAllowed: each module has to have a licence, and only known ones that are on
// the list.
func TestWhatIsAllowed(t *testing.T) {
	classify, err := classifier()
	if err != nil {
		t.Fatal(err)
	}
	mit, gpl := texts(t, "MIT"), texts(t, "GPL-3.0")
	for name, tc := range map[string]struct {
		files    map[string][]byte
		licences []string
		problem  string
	}{
		"an allowed one":             {map[string][]byte{"LICENSE": mit}, []string{"MIT"}, ""},
		"spelt otherwise":            {map[string][]byte{"licence.md": mit}, []string{"MIT"}, ""},
		"none":                       {map[string][]byte{"README.md": mit}, nil, "no licence"},
		"one that asks for more":     {map[string][]byte{"COPYING": gpl}, []string{"GPL-3.0"}, "GPL-3.0"},
		"one of each":                {map[string][]byte{"LICENSE": mit, "COPYING": gpl}, []string{"GPL-3.0", "MIT"}, "GPL-3.0"},
		"something that nobody read": {map[string][]byte{"LICENSE": []byte("You may look at this on Sundays.")}, []string{""}, "not known"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, text := range tc.files {
				if err := os.WriteFile(filepath.Join(dir, file), text, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			m := module{}
			if m.licences, err = licencesOf(dir, classify); err != nil {
				t.Fatal(err)
			}
			problem := m.problem()
			if !slices.Equal(m.licences, tc.licences) || (tc.problem == "") != (problem == "") || !strings.Contains(problem, tc.problem) {
				t.Errorf("%q: %q, want %q: %q", m.licences, problem, tc.licences, tc.problem)
			}
		})
	}
}

// TestRunRefuses: a program with a module that is not allowed fails, by its name.
func TestRunRefuses(t *testing.T) {
	root := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", "module example.org/main\n\ngo 1.26.0\n\nrequire example.org/strict v0.0.0\n\nreplace example.org/strict => ./strict\n")
	write("main.go", "package main\n\nimport _ \"example.org/strict\"\n\nfunc main() {}\n")
	write("strict/go.mod", "module example.org/strict\n\ngo 1.26.0\n")
	write("strict/strict.go", "package strict\n")
	write("strict/LICENSE", string(texts(t, "GPL-3.0")))
	t.Setenv("GOFLAGS", "-mod=mod")
	var out bytes.Buffer
	if err := run(t.Context(), &out, []string{root, "."}); err == nil || !strings.Contains(err.Error(), "GPL-3.0") || out.Len() > 0 {
		t.Errorf("%v\n%s", err, &out)
	}
	text, err := os.ReadFile(filepath.Join(runtime.GOROOT(), "LICENSE")) //nolint:staticcheck // Go's own, which is there
	if err != nil {
		t.Fatal(err)
	}
	write("strict/LICENSE", string(text))
	if err := run(t.Context(), &out, []string{root, "."}); err != nil || !strings.Contains(out.String(), "| BSD-3-Clause |") {
		t.Errorf("%v\n%s", err, &out)
	}
	if err := run(t.Context(), &out, nil); err == nil {
		t.Error("nothing was asked, and all was well")
	}
}

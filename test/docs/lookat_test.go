// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// lookAt holds a command that is not typed here against what there is: bash can read it,
// the file that is said to type it does, and its own program knows its subcommand, flags,
// targets, scripts and files.
func (w *world) lookAt(t *testing.T, c command, e exception) {
	t.Helper()
	if (e.file == "") == (e.why == "") {
		t.Errorf("%s:%d: %q: an exception has either a file or a reason", c.page, c.line, c.text)
	}
	if e.file != "" {
		raw, err := os.ReadFile(filepath.Join(root, e.file))
		if err != nil || !strings.Contains(string(raw), e.has) {
			t.Errorf("%s:%d: %q is said to be typed by %s, which has no %q: %v%s", c.page, c.line, c.text, e.file, e.has, err, advice)
		}
	}
	w.looks(t, c, "bash -n -c "+quoted(c.text))
	words := strings.Fields(strings.TrimSuffix(assigned.ReplaceAllString(c.text, ""), "&"))
	switch words[0] {
	case "make":
		w.looks(t, c, "make -n IMG=x "+strings.ReplaceAll(strings.TrimPrefix(c.text, "make "), "…", "x")+" >/dev/null")
	case "kubectl", "helm":
		w.lookAtFlags(t, c, words)
	case "go":
		w.looks(t, c, "go help "+words[1]+" >/dev/null")
		w.lookAtPaths(t, c, words[2:])
	case "promtool":
		w.lookAtPaths(t, c, words[1:])
	case "npm":
		w.lookAtScripts(t, c)
	}
}

// looks runs what only looks.
func (w *world) looks(t *testing.T, c command, check string) {
	t.Helper()
	if out, err := newShell(t, w.clone, w.env).run(t.Context(), check); err != nil {
		t.Errorf("%s:%d: %q: %s: %v\n%s%s", c.page, c.line, c.text, check, err, out, advice)
	}
}

// quoted is a text as one word of a shell.
func quoted(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// lookAtPaths looks whether the files and packages of a command are there.
func (w *world) lookAtPaths(t *testing.T, c command, words []string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(word, "/") || strings.HasPrefix(word, "-") {
			continue
		}
		if _, err := os.Stat(filepath.Join(w.clone, strings.TrimSuffix(word, "/..."))); err != nil {
			t.Errorf("%s:%d: %q: %v%s", c.page, c.line, c.text, err, advice)
		}
	}
}

// npmScript is a command of npm that runs one of the package's own.
var npmScript = regexp.MustCompile(`npm (?:run )?(build|start|test)`)

// lookAtScripts looks whether the package of web/ has the scripts of a command, and what
// `npm ci` reads.
func (w *world) lookAtScripts(t *testing.T, c command) {
	t.Helper()
	var described struct{ Scripts map[string]string }
	raw, err := os.ReadFile(filepath.Join(w.clone, "web", "package.json"))
	if err == nil {
		err = json.Unmarshal(raw, &described)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range npmScript.FindAllStringSubmatch(c.text, -1) {
		if described.Scripts[m[1]] == "" {
			t.Errorf("%s:%d: %q: web/package.json has no script %s%s", c.page, c.line, c.text, m[1], advice)
		}
	}
	if _, err := os.Stat(filepath.Join(w.clone, "web", "package-lock.json")); strings.Contains(c.text, "npm ci") && err != nil {
		t.Errorf("%s:%d: %q: %v%s", c.page, c.line, c.text, err, advice)
	}
}

// inNamespace is what may stand before kubectl's subcommand.
var inNamespace = regexp.MustCompile(`^(-n \S+ )?`)

// lookAtFlags asks a program whether it has a subcommand and its flags.
func (w *world) lookAtFlags(t *testing.T, c command, words []string) {
	t.Helper()
	rest := strings.Fields(inNamespace.ReplaceAllString(strings.Join(words[1:], " "), ""))
	flags := slices.IndexFunc(rest, func(word string) bool { return strings.HasPrefix(word, "-") })
	if flags < 0 {
		flags = len(rest)
	}
	if flags == 0 {
		t.Errorf("%s:%d: %q has no subcommand%s", c.page, c.line, c.text, advice)
		return
	}
	help := w.must(t, words[0]+" "+strings.Join(rest[:flags], " ")+" --help")
	if !regexp.MustCompile(`Usage:\s+` + words[0] + ` ` + rest[0]).MatchString(help) {
		t.Errorf("%s:%d: %s has no %s%s", c.page, c.line, words[0], rest[0], advice)
	}
	for _, word := range rest[flags:] {
		name, _, _ := strings.Cut(word, "=")
		if strings.HasPrefix(name, "-") && len(name) > 1 && !regexp.MustCompile(`(?m)^ +(-\w, )?`+name+`[,=]`).MatchString(help) {
			t.Errorf("%s:%d: %s %s has no flag %s%s", c.page, c.line, words[0], rest[0], name, advice)
		}
	}
}

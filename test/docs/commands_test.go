// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/yuin/goldmark/ast"
)

// command is one that a page tells people to type.
type command struct {
	page string
	line int
	// section is the heading that it stands under.
	section string
	// text is what is typed, without the prompt and without the remark behind it.
	text string
	// shown is what the page says that it prints.
	shown []string
	// inline is true within a sentence or a table.
	inline bool
}

// programs are the first words of commands. In a block that says it is a shell's every
// line is one; in others, and in sentences, those that begin with these are. That no page
// has some of them yet is no matter: a page that will is to be seen.
var programs = []string{
	"alias", "apt-get", "bash", "brew", "cat", "cd", "chmod", "cosign", "cp", "crane", "curl", "docker", "echo", "export", "git", "go", "grep", "helm",
	"jq", "kind", "kubectl", "kubectl-chatrun", "kustomize", "make", "minikube", "mkdir", "mv", "node", "npm", "npx", "openssl", "oras", "podman",
	"promtool", "python", "python3", "rm", "sed", "source", "sudo", "tail", "tar", "wget",
}

var (
	// assigned is what may stand before a program: variables of its environment.
	assigned = regexp.MustCompile(`^([A-Z_]+=\S+ +)+`)
	// remark ends a command for its reader.
	remark = regexp.MustCompile(`\s+# .*$`)
	// here opens a here-document.
	here = regexp.MustCompile(`<<-?['"]?([A-Z]+)`)
)

// isCommand reports whether a line begins as one does, and says more than a name.
func isCommand(line string) bool {
	words := strings.Fields(assigned.ReplaceAllString(line, ""))
	return len(words) > 1 && slices.Contains(programs, words[0]) && words[1] != "…"
}

// commands of a page, in its order.
func (p *page) commands() []command {
	var all []command
	section := ""
	p.walk(func(n ast.Node) {
		var found []command
		switch n.(type) {
		case *ast.Heading:
			section = p.words(n)
		case *ast.FencedCodeBlock, *ast.CodeBlock:
			found = p.inBlock(n)
		case *ast.CodeSpan:
			if words := strings.ReplaceAll(p.words(n), "\n", " "); isCommand(words) {
				found = []command{{line: p.lineOf(n), text: words, inline: true}}
			}
		}
		for _, c := range found {
			c.page, c.section = p.name, section
			all = append(all, c)
		}
	})
	return all
}

// lineOf finds a code span's line by its first piece of text.
func (p *page) lineOf(n ast.Node) int {
	if t, ok := n.FirstChild().(*ast.Text); ok {
		return p.lineAt(t.Segment.Start)
	}
	return 0
}

// inBlock reads the commands of a block of code, with what they print.
func (p *page) inBlock(n ast.Node) []command {
	language := ""
	if fenced, ok := n.(*ast.FencedCodeBlock); ok {
		language = string(fenced.Language(p.source))
	}
	if !slices.Contains([]string{"", "sh", "bash", "console"}, language) {
		return nil
	}
	var found []command
	for i := 0; i < n.Lines().Len(); i++ {
		segment := n.Lines().At(i)
		next := func() string {
			i++
			if i == n.Lines().Len() {
				return ""
			}
			s := n.Lines().At(i)
			return strings.TrimRight(string(s.Value(p.source)), "\n")
		}
		line := strings.TrimRight(string(segment.Value(p.source)), "\n")
		c := command{line: p.lineAt(segment.Start)}
		switch typed, prompt := strings.CutPrefix(line, "$ "); {
		case language == "console" && !prompt:
			if len(found) > 0 && line != "" {
				found[len(found)-1].shown = append(found[len(found)-1].shown, line)
			}
			continue
		case language == "console":
			line = typed
		case language == "" && !isCommand(remark.ReplaceAllString(line, "")), strings.TrimSpace(line) == "", strings.HasPrefix(line, "#"):
			continue
		}
		c.text = remark.ReplaceAllString(line, "")
		if end := here.FindStringSubmatch(c.text); end != nil {
			for l := next(); i < n.Lines().Len(); l = next() {
				c.text += "\n" + l
				if l == end[1] {
					break
				}
			}
		}
		for strings.HasSuffix(c.text, "\\") && i < n.Lines().Len() {
			c.text += "\n" + next()
		}
		found = append(found, c)
	}
	return found
}

// TestFindsCommands: in blocks of each kind, in sentences and in tables, with their
// lines, and nothing that is none.
func TestFindsCommands(t *testing.T) {
	source := strings.Join([]string{
		"Type `make demo`, or `make`, or `kubectl get chr\n-A`.", // 1, 2
		"", "    kubectl get chr   # all of them", // 4
		"    kind: ChatRun", "    KEY=none make dev", // 5, 6
		"    curl -N \\", "        http://x", // 7, 8
		"", "```console", "$ helm list", "NAME   AGE", "$ go version", "```", // 10 … 14
		"", "```yaml", "make: it", "```", // 16 … 18
		"", "| `git status` |", "|---|", "| `npm ci` |", // 20 … 22
		"", "```sh", "kubectl apply -f - <<END", "a: b", "END", "strange --thing", "```", // 24 … 29
		"", "# Later", "", "    git status", // 31 … 33
	}, "\n")
	p := newPage("page", []byte(source))
	want := []command{
		{line: 1, text: "make demo", inline: true},
		{line: 1, text: "kubectl get chr -A", inline: true},
		{line: 4, text: "kubectl get chr"},
		{line: 6, text: "KEY=none make dev"},
		{line: 7, text: "curl -N \\\n    http://x"},
		{line: 11, text: "helm list", shown: []string{"NAME   AGE"}},
		{line: 13, text: "go version"},
		{line: 20, text: "git status", inline: true},
		{line: 22, text: "npm ci", inline: true},
		{line: 25, text: "kubectl apply -f - <<END\na: b\nEND"},
		{line: 28, text: "strange --thing"},
		{line: 33, text: "git status", section: "Later"},
	}
	got := p.commands()
	for i := range got {
		if i >= len(want) {
			t.Fatalf("beyond what is there: %+v", got[i:])
		}
		want[i].page = "page"
		if g, w := got[i], want[i]; g.line != w.line || g.text != w.text || g.inline != w.inline || g.section != w.section || !slices.Equal(g.shown, w.shown) {
			t.Errorf("got %+v, want %+v", g, w)
		}
	}
	if len(got) < len(want) {
		t.Errorf("not found: %+v", want[len(got):])
	}
}

// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// advice ends each complaint about a command that nobody has planned for.
const advice = "\nHow to cover it (all in test/docs/plans_test.go): if its page takes something for done, say so in `plans`; if it goes on until Ctrl-C, " +
	"in `goOn`; if it can only be typed elsewhere, or not at all, say in `exceptions` where or why, and it is looked at instead. " +
	"What its reader is to fill in is filled in by `fill` (world_test.go)."

// exceptionOf returns the name of a command's entry among the exceptions, or "".
func exceptionOf(c command) string {
	for _, text := range []string{c.page + ": " + c.text, c.text} {
		if _, ok := exceptions[text]; ok {
			return text
		}
	}
	longest := ""
	for name := range exceptions {
		if begin, several := strings.CutSuffix(name, " …"); several && strings.HasPrefix(c.text, begin+" ") && len(name) > len(longest) {
			longest = name
		}
	}
	return longest
}

// follower follows pages.
type follower struct {
	*world
	// typed are the commands that stand in a block of code of any page.
	typed map[string]bool
	// used are the entries of the tables that a command has.
	used map[string]bool
	// aside are the commands of `once`, with the first place of each on a page.
	aside map[string]chan outcome
	place map[string]command
}

// TestCommands types every command of every page, in the order of the page. What cannot
// be typed here is looked at.
func TestCommands(t *testing.T) {
	all := pages(t)
	f := &follower{world: newWorld(t), typed: map[string]bool{}, used: map[string]bool{}, aside: map[string]chan outcome{}, place: map[string]command{}}
	f.typeAside(t)
	for name, p := range all {
		if !followed(name) {
			continue
		}
		for _, c := range p.commands() {
			f.typed[c.text] = f.typed[c.text] || !c.inline && exceptionOf(c) == ""
		}
	}
	// The quick start begins with nothing; what installs and removes comes last.
	const first, last = "docs/quickstart.md", "docs/install.md"
	order := slices.DeleteFunc(slices.Sorted(maps.Keys(all)), func(name string) bool { return !followed(name) || name == first || name == last })
	f.follow(t, all[first])
	f.must(t, f.fill("make -s deploy IMG=registry.example/chatrun-operator:v1"))
	for _, name := range append(order, last) {
		if name == "docs/providers.md" {
			t.Run(name+", asked", func(t *testing.T) { f.ask(t, all[name]) })
		}
		f.follow(t, all[name])
	}
	t.Run("aside", func(t *testing.T) {
		for _, text := range once {
			if c, ok := f.place[text]; ok {
				f.judge(t, c, <-f.aside[text])
			}
		}
	})
	if only := flag.Lookup("test.run"); only != nil && strings.Contains(only.Value.String(), "/") {
		return // nothing is known of the pages that were left out
	}
	f.stale(t)
}

// typeAside types the commands of `once`, in a clone of their own, while pages are
// followed: most of their time they wait.
func (f *follower) typeAside(t *testing.T) {
	t.Helper()
	s, texts := newShell(t, clone(t), f.env), map[string]string{}
	for _, text := range once {
		f.aside[text], texts[text] = make(chan outcome, 1), f.fill(text)
	}
	ctx, done := t.Context(), make(chan struct{})
	t.Cleanup(func() { <-done }) // the context has ended by then
	go func() {
		defer close(done)
		for _, text := range once {
			if ctx.Err() == nil {
				f.aside[text] <- s.typed(ctx, texts[text], goOn[text])
			}
		}
	}()
}

// stale finds what the tables have of commands that no page tells of any more.
func (f *follower) stale(t *testing.T) {
	t.Helper()
	planned := slices.Concat(once, slices.Collect(maps.Keys(exceptions)), slices.Collect(maps.Keys(goOn)))
	for _, p := range plans {
		planned = slices.AppendSeq(planned, maps.Keys(p.before))
	}
	slices.Sort(planned)
	for _, name := range slices.Compact(planned) {
		if !f.used[name] {
			t.Errorf("test/docs/plans_test.go tells what to do with %q, and no page has that command any more: take it out, or put it back", name)
		}
	}
}

// followed reports whether a page is one to follow: decisions tell of their day, and
// three pages are lists that a program writes.
func followed(name string) bool {
	return !strings.HasPrefix(name, "docs/decisions/") && name != "docs/failures.md" && name != "docs/licences.md" && name != "docs/reference.md"
}

// follow types the commands of a page.
func (f *follower) follow(t *testing.T, p *page) {
	commands := p.commands()
	if len(commands) == 0 {
		return
	}
	t.Run(p.name, func(t *testing.T) {
		var s *shell
		defer func() {
			if s != nil {
				s.end()
			}
			f.stop()
			if raw, err := os.ReadFile(f.log()); err == nil && t.Failed() && testing.Verbose() {
				t.Logf("the manager's log ends:\n%s", raw[max(0, len(raw)-4000):])
			}
		}()
		for _, c := range commands {
			if name := exceptionOf(c); name != "" {
				f.used[name] = true
				f.lookAt(t, c, exceptions[name])
				continue
			}
			if c.inline && f.typed[c.text] {
				continue // where it stands in a block
			}
			if f.aside[c.text] != nil {
				if !f.used[c.text] {
					f.used[c.text], f.place[c.text] = true, c
				}
				continue
			}
			if s == nil {
				s = f.begin(t, p)
			}
			f.typeIt(t, s, c)
		}
	})
}

// planOf a page.
func planOf(page string) plan {
	if plan, ok := plans[page]; ok {
		return plan
	}
	return usual
}

// begin makes what a page takes for done, and opens a shell.
func (f *follower) begin(t *testing.T, p *page) *shell {
	t.Helper()
	plan := planOf(p.name)
	if p.name != "docs/quickstart.md" {
		f.clear(t)
	}
	if plan.door != "" {
		f.start(t, plan.door)
	}
	f.save(t, p, plan.files)
	s := newShell(t, f.clone, append(slices.Clone(f.env), "STREAM="+f.stream))
	for _, text := range plan.has {
		if out, err := s.run(t.Context(), f.fill(text)); err != nil {
			t.Fatalf("%s, before its commands: %s: %v\n%s", p.name, text, err, out)
		}
	}
	return s
}

// save writes the blocks of code that a page takes for saved.
func (w *world) save(t *testing.T, p *page, files map[string]string) {
	t.Helper()
	blocks := p.code()
	for file, begin := range files {
		at := slices.IndexFunc(blocks, func(b block) bool { return strings.HasPrefix(b.text, begin) })
		if at < 0 {
			t.Fatalf("%s: no block of code begins with %q", p.name, begin)
		}
		path := filepath.Join(w.clone, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(w.fill(blocks[at].text)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// typeIt runs one command.
func (f *follower) typeIt(t *testing.T, s *shell, c command) {
	t.Helper()
	if before := planOf(c.page).before[c.text]; before != "" {
		if out, err := s.run(t.Context(), f.fill(before)); err != nil {
			t.Fatalf("%s:%d: before %q: %s: %v\n%s", c.page, c.line, c.text, before, err, out)
		}
	}
	if target := unknownTarget(c); target != "" {
		t.Errorf("%s:%d: nobody has planned for make %s: add it to `targets` if it may be typed here.%s", c.page, c.line, target, advice)
		return
	}
	g := goOn[c.text]
	g.meanwhile = f.fill(g.meanwhile)
	f.used[c.text] = true
	f.judge(t, c, s.typed(t.Context(), f.fill(c.text), g))
}

// judge holds what became of a command against what its page says.
func (f *follower) judge(t *testing.T, c command, o outcome) {
	t.Helper()
	t.Logf("%5.1f s  %s:%d  %s", o.took.Seconds(), c.page, c.line, c.text)
	if o.err != nil {
		t.Errorf("%s:%d: %q: %v\n%s%s", c.page, c.line, c.text, o.err, o.out, advice)
		return
	}
	if line := missing(c.shown, o.out); line != "" {
		t.Errorf("%s:%d: %q does not print %q, as the page says, but\n%s", c.page, c.line, c.text, line, o.out)
	}
}

// unknownTarget returns what a command tells make and nobody has looked at: it may take
// hours, or change the clone for those that follow.
func unknownTarget(c command) string {
	words := strings.Fields(assigned.ReplaceAllString(c.text, ""))
	if words[0] != "make" {
		return ""
	}
	for _, word := range words[1:] {
		if !strings.Contains(word, "=") && word != "-s" && !slices.Contains(targets, word) {
			return word
		}
	}
	return ""
}

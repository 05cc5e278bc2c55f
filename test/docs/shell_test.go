// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is what a command may take: those that build the manager anew, on a machine
// that does other things too, take the longest.
const patience = 3 * time.Minute

// shell types commands one after the other, as a person does: variables, aliases and the
// folder that one leaves are there for the next.
type shell struct {
	state string // a folder of the shell's own
	dir   string
	env   []string
	// kept are commands that go on behind those that follow.
	kept []*running
}

// script runs what stands in the file "command" and keeps what it leaves.
const script = `shopt -s expand_aliases
[ ! -e "$SHELL_STATE/env" ] || . "$SHELL_STATE/env"
[ ! -e "$SHELL_STATE/dir" ] || cd "$(cat "$SHELL_STATE/dir")"
set -o pipefail
. "$SHELL_STATE/command"
code=$?
{ declare -px; alias -p; } >"$SHELL_STATE/env"
pwd >"$SHELL_STATE/dir"
exit "$code"
`

func newShell(t *testing.T, dir string, env []string) *shell {
	t.Helper()
	s := &shell{state: t.TempDir(), dir: dir}
	s.env = append(slices.Clone(env), "SHELL_STATE="+s.state)
	return s
}

// running is a command that was begun.
type running struct {
	cmd  *exec.Cmd
	text string
	out  *output
	done chan struct{}
	err  error
}

// output keeps what a command prints, and says when there is more.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{}
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case o.more <- struct{}{}:
	default: // it was said already
	}
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// begin starts a command in a process group of its own.
func (s *shell) begin(text string) (*running, error) {
	if err := os.WriteFile(filepath.Join(s.state, "command"), []byte(text+"\n"), 0o600); err != nil {
		return nil, err
	}
	r := &running{text: text, out: &output{more: make(chan struct{}, 1)}, done: make(chan struct{})}
	r.cmd = exec.CommandContext(context.Background(), "bash", "-c", script)
	r.cmd.Dir, r.cmd.Env = s.dir, s.env
	r.cmd.Stdout, r.cmd.Stderr = r.out, r.out
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// What a command leaves running may hold its output open.
	r.cmd.WaitDelay = time.Second
	// Where this process was started behind others it ignores Ctrl-C, and so would all
	// that it starts, unless it listens for it meanwhile.
	ignored := make(chan os.Signal, 1)
	signal.Notify(ignored, os.Interrupt)
	defer signal.Stop(ignored)
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		r.err = r.cmd.Wait()
		close(r.done)
	}()
	return r, nil
}

// until waits for what a command prints.
func (r *running) until(ctx context.Context, pattern string) error {
	re := regexp.MustCompile(pattern)
	for !re.MatchString(r.out.String()) {
		select {
		case <-r.out.more:
		case <-r.done:
			if re.MatchString(r.out.String()) {
				return nil
			}
			return fmt.Errorf("it ended (%w) and had not printed what fits %q", errOrNil(r.err), pattern)
		case <-ctx.Done():
			return fmt.Errorf("it did not print what fits %q within %v", pattern, patience)
		}
	}
	return nil
}

// errEnded stands for an exit status of 0 where another end was due.
var errEnded = fmt.Errorf("exit status 0")

func errOrNil(err error) error {
	if err == nil {
		return errEnded
	}
	return err
}

// interrupt is Ctrl-C, and more for who does not obey.
func (r *running) interrupt() {
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL} {
		_ = syscall.Kill(-r.cmd.Process.Pid, signal) // it may be gone
		select {
		case <-r.done:
			return
		case <-time.After(time.Minute):
		}
	}
}

// outcome is what became of a command.
type outcome struct {
	out  string
	err  error
	took time.Duration
}

// typed types a command; one that goes on by itself says until when.
func (s *shell) typed(ctx context.Context, text string, goesOn endless) outcome {
	begun := time.Now()
	var o outcome
	if goesOn.last == "" {
		o.out, o.err = s.run(ctx, text)
	} else {
		o.out, o.err = s.follow(ctx, text, goesOn)
	}
	o.took = time.Since(begun)
	return o
}

// run types a command, and waits for its end.
func (s *shell) run(ctx context.Context, text string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r, err := s.begin(text)
	if err != nil {
		return "", err
	}
	select {
	case <-r.done:
		return r.out.String(), r.err
	case <-ctx.Done():
		r.interrupt()
		return r.out.String(), fmt.Errorf("it did not end within %v: is it one that waits for Ctrl-C?", patience)
	}
}

// follow types a command that goes on, waits for what it is to print, and ends it by
// Ctrl-C. Meanwhile, once the first pattern has come, it types another.
func (s *shell) follow(ctx context.Context, text string, f endless) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r, err := s.begin(text)
	if err != nil {
		return "", err
	}
	if f.keep {
		s.kept = append(s.kept, r)
	} else {
		defer r.interrupt()
	}
	if f.meanwhile != "" {
		if err := r.until(ctx, f.first); err != nil {
			return r.out.String(), err
		}
		other := *s
		other.state = filepath.Join(s.state, "meanwhile")
		other.env = append(slices.Clone(s.env), "SHELL_STATE="+other.state)
		if err := os.MkdirAll(other.state, 0o700); err != nil {
			return "", err
		}
		if out, err := other.run(ctx, f.meanwhile); err != nil {
			return out, fmt.Errorf("meanwhile, %s: %w", f.meanwhile, err)
		}
	}
	err = r.until(ctx, f.last)
	return r.out.String(), err
}

// end is Ctrl-C for what was kept.
func (s *shell) end() {
	for _, r := range slices.Backward(s.kept) {
		r.interrupt()
	}
}

var (
	duration = regexp.MustCompile(`^(\d+(\.\d+)?(ms|s|m|h|d))+$`)
	moment   = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$`)
)

// like reports whether a line is what a page shows: the same words, with other ages and
// times, and anything where the page has an ellipsis.
func like(shown, got string) bool {
	want, words := strings.Fields(shown), strings.Fields(got)
	for i, w := range want {
		before, _, cut := strings.Cut(w, "…")
		if cut && i == len(want)-1 {
			return strings.HasPrefix(strings.Join(words[min(i, len(words)):], " "), before)
		}
		if i >= len(words) {
			return false
		}
		g := words[i]
		switch {
		case w == g, cut && strings.HasPrefix(g, before):
		case duration.MatchString(w) && duration.MatchString(g), moment.MatchString(w) && moment.MatchString(g):
		default:
			return false
		}
	}
	return len(words) == len(want)
}

// missing returns the first line of a page that is not printed, in the page's order.
func missing(shown []string, printed string) string {
	lines := strings.Split(printed, "\n")
	for _, want := range shown {
		at := slices.IndexFunc(lines, func(got string) bool { return like(want, got) })
		if at < 0 {
			return want
		}
		lines = lines[at+1:]
	}
	return ""
}

func TestLike(t *testing.T) {
	for _, tc := range []struct {
		shown, got string
		want       bool
	}{
		{"NAME  AGE", "NAME     AGE", true},
		{"hello 3s", "hello 1m12s", true},
		{"hello 3s", "hello soon", false},
		{"a 2026-01-02T03:04:06.123457Z b", "a 2027-11-02T03:04:06.9Z b", true},
		{"a …", "a b c", true},
		{"a b", "a b c", false},
		{"a b c", "a b", false},
		{"key sk-…", "key sk-1", true},
		{"key sk-…", "key pk-1", false},
		{"key sk-… end", "key sk-1 end", true},
		{"data: {…", "data: {\"text\": \"of words\"}", true},
		{"data: {…", "data:", false},
	} {
		if got := like(tc.shown, tc.got); got != tc.want {
			t.Errorf("%q, %q: %v", tc.shown, tc.got, got)
		}
	}
	if got := missing([]string{"one", "three"}, "one\ntwo\nthree\n"); got != "" {
		t.Errorf("missing: %q", got)
	}
	if got := missing([]string{"three", "one"}, "one\ntwo\nthree\n"); got != "one" {
		t.Errorf("missing: %q", got)
	}
}

// TestShell: what a command leaves is there for the next, a failure in a pipe is one,
// and what goes on is ended.
func TestShell(t *testing.T) {
	s := newShell(t, t.TempDir(), []string{"PATH=" + os.Getenv("PATH")})
	for _, text := range []string{"export A='b c'", "mkdir x && cd x", "alias say='echo said'"} {
		if out, err := s.run(t.Context(), text); err != nil {
			t.Fatalf("%s: %v\n%s", text, err, out)
		}
	}
	if out, err := s.run(t.Context(), `say "$A" $(basename "$(pwd)")`); err != nil || out != "said b c x\n" {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := s.run(t.Context(), "false | cat"); err == nil {
		t.Error("a pipe that fails passes")
	}
	out, err := s.follow(t.Context(), "mkfifo pipe && echo begun && cat pipe && tail -f /dev/null", endless{
		first: "begun", meanwhile: "echo news >x/pipe", last: "news",
	})
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

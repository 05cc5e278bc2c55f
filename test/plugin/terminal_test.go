// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/hinshun/vt10x"
	. "github.com/onsi/gomega"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chattest"
)

// columns and rows are a terminal's.
const columns, rows = 100, 24

// terminal is a person's: what stands on its screen, and what was written to it.
type terminal struct {
	t    *testing.T
	cmd  *exec.Cmd
	file *os.File
	done chan struct{}

	mu     sync.Mutex
	screen vt10x.Terminal
	began  time.Time
	frames []frame
}

// frame is what was written to a terminal at a time.
type frame struct {
	at   time.Duration
	text string
}

// terminal starts a command at a terminal.
func (p *person) terminal(cmd *exec.Cmd) *terminal {
	p.t.Helper()
	t := &terminal{t: p.t, cmd: cmd, done: make(chan struct{}), screen: vt10x.New(vt10x.WithSize(columns, rows)), began: time.Now()}
	var err error
	t.file, err = pty.StartWithSize(cmd, &pty.Winsize{Cols: columns, Rows: rows})
	NewWithT(p.t).Expect(err).NotTo(HaveOccurred())
	p.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-t.done
		_ = t.file.Close()
	})
	go t.read()
	return t
}

// read shows what comes, until the other end is closed.
func (t *terminal) read() {
	defer close(t.done)
	buffer := make([]byte, 4096)
	for {
		n, err := t.file.Read(buffer)
		t.mu.Lock()
		_, _ = t.screen.Write(buffer[:n])
		if n > 0 {
			t.frames = append(t.frames, frame{time.Since(t.began), string(buffer[:n])})
		}
		t.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// shows is the text on the screen, without what is blank.
func (t *terminal) shows() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var lines []string
	for line := range strings.SplitSeq(t.screen.String(), "\n") {
		lines = append(lines, strings.TrimRight(line, " "))
	}
	return strings.TrimRight(strings.Join(lines, "\n"), "\n")
}

// wrote is all that was ever written.
func (t *terminal) wrote() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all strings.Builder
	for _, f := range t.frames {
		all.WriteString(f.text)
	}
	return all.String()
}

// until waits for a text on the screen.
func (t *terminal) until(text string) {
	t.t.Helper()
	NewWithT(t.t).Eventually(t.shows).WithTimeout(patience).WithPolling(10 * time.Millisecond).Should(ContainSubstring(text))
}

// press types keys.
func (t *terminal) press(keys string) {
	t.t.Helper()
	_, err := t.file.WriteString(keys)
	NewWithT(t.t).Expect(err).NotTo(HaveOccurred())
}

// ends waits for the end, and returns the exit code.
func (t *terminal) ends() int {
	t.t.Helper()
	select {
	case <-t.done:
	case <-time.After(patience):
		t.t.Fatalf("it goes on; the screen shows:\n%s", t.shows())
	}
	_ = t.cmd.Wait()
	return t.cmd.ProcessState.ExitCode()
}

const ctrlC = "\x03"

// TestTerminal: what a person sees of a run that is tried again. The wait counts down in
// its place, and is gone when the answer comes.
func TestTerminal(t *testing.T) {
	t.Parallel()
	p := newPerson(t, editor, streamReader)
	question := p.asks("sky", overloaded(), overloaded(), chattest.Answer(chattest.Words(sky)...).Usage(9, 14).Pace(50*time.Millisecond))
	screen := p.terminal(p.command("run", question, "--name=sky"))
	screen.until("Retrying in 2 s (attempt 2, Overloaded)")
	screen.until("Retrying in 1 s (attempt 2, Overloaded)")
	g := NewWithT(t)
	g.Expect(screen.ends()).To(Equal(0))
	g.Expect(strings.Split(screen.shows(), "\n")).To(HaveExactElements(
		"chatrun/sky created in "+p.namespace,
		HavePrefix("Attempt 1 failed: "), HavePrefix("Attempt 2 failed: "),
		"The sky is blue since air scatters short waves most.", "That is all.",
		"Title: Light And Air", "Tokens: 9 in, 14 out",
	))
	g.Expect(strings.Count(screen.wrote(), "\x1b[2K")).To(BeNumerically(">=", 4), "countdowns are redrawn")
}

// TestHostileAnswer: what a model says can neither move the cursor of a terminal nor
// colour it, nor have it send anything.
func TestHostileAnswer(t *testing.T) {
	t.Parallel()
	p := newPerson(t, editor, streamReader)
	question := p.asks("evil", chattest.Answer("a\x1b[2J\x1b]0;title\x07", "\x1b[6n\u009b31m", "b\rc\u202e\x00d\n"))
	screen := p.terminal(p.command("run", question, "--title=none"))
	g := NewWithT(t)
	g.Expect(screen.ends()).To(Equal(0))
	g.Expect(screen.wrote()).NotTo(MatchRegexp(`\x1b\[(2J|6n|31m)|\x1b\]|\x07|\x00`))
	g.Expect(screen.wrote()).NotTo(ContainSubstring("\u009b"))
	g.Expect(screen.wrote()).NotTo(ContainSubstring("\u202e"))
	g.Expect(screen.shows()).To(ContainSubstring("chatrun/"), "the screen was not cleared")
}

// TestInterrupted: Ctrl-C leaves the run alone and says how to come back; a second one
// cancels it, and so does the first if that was asked for.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	p := newPerson(t, editor, streamReader)
	slow := func(name string) string { return p.asks(name, chattest.Answer("begun ", "never").StallAfter(1)) }
	g := NewWithT(t)

	once := p.terminal(p.command("run", slow("once"), "--name=once"))
	once.until("begun")
	once.press(ctrlC)
	once.until("kubectl chatrun logs -f -n " + p.namespace + " once")
	g.Expect(once.ends()).To(Equal(130))
	g.Expect(p.run("once").Status.Phase).To(Equal(v1alpha1.PhaseStreaming), "it goes on")

	back := p.terminal(p.command("logs", "-f", "once"))
	back.until("begun")
	back.press(ctrlC)
	back.until("Ctrl-C again")
	back.press(ctrlC)
	g.Expect(back.ends()).To(Equal(3))
	g.Expect(back.shows()).To(ContainSubstring("Cancelled"))
	p.becomes("once", v1alpha1.PhaseCancelled)

	asked := p.terminal(p.command("run", slow("asked"), "--name=asked", "--cancel-on-interrupt"))
	asked.until("begun")
	asked.press(ctrlC)
	g.Expect(asked.ends()).To(Equal(3))
	p.becomes("asked", v1alpha1.PhaseCancelled)
}

// TestWatch: a table that is redrawn, and lines in a pipe.
func TestWatch(t *testing.T) {
	t.Parallel()
	p := newPerson(t, editor, streamReader)
	screen := p.terminal(p.command("watch"))
	screen.until("No runs yet.")
	p.chatrun("run", p.asks("one", overloaded(), chattest.Answer("yes").Usage(1, 2)), "--name=one", "--wait=false", "--title=none")
	screen.until("Retrying")
	screen.until("Succeeded")
	g := NewWithT(t)
	g.Expect(strings.Count(screen.shows(), "NAME")).To(Equal(1), screen.shows())
	g.Expect(screen.shows()).To(MatchRegexp(`one +openai +gpt-5-mini +Succeeded +2 +Overloaded +2 `))
	screen.press(ctrlC)
	g.Expect(screen.ends()).To(Equal(0))
}

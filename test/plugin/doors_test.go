// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"chatrun.dev/operator/internal/chattest"
)

// locked is written by a program, and read meanwhile.
type locked struct {
	mu     sync.Mutex
	buffer *bytes.Buffer
}

// Write implements io.Writer.
func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffer.Write(p)
}

func (l *locked) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffer.String()
}

// TestDoors: the same run through each door.
func TestDoors(t *testing.T) {
	t.Parallel()
	p := newPerson(t, editor, streamReader).forwards()
	p.done("one", "yes")
	before := the.node.forwarded.Load()
	p.chatrun("logs", "-f", "one", "--via=api").expect(t, 0, "yes")
	p.chatrun("logs", "-f", "one", "--via=object").expect(t, 0, "yes")
	g := NewWithT(t)
	g.Expect(the.node.forwarded.Load()).To(Equal(before))
	p.chatrun("logs", "-f", "one", "--via=port-forward").expect(t, 0, "yes")
	p.chatrun("logs", "-f", "one", "--via=port-forward", "--stream-ca="+the.ca).expect(t, 0, "yes")
	g.Expect(the.node.forwarded.Load()).To(BeNumerically(">=", before+2))
	url := "--stream-url=https://" + the.address
	p.chatrun("logs", "-f", "one", url, "--stream-ca="+the.ca).expect(t, 0, "yes")
	p.chatrun("logs", "-f", "one", url, "--stream-insecure").expect(t, 0, "yes")
	p.chatrun("logs", "one", url).expect(t, 1, "", "certificate", "--stream-ca")
	p.chatrun("logs", "one", url, "--stream-insecure", "--stream-ca="+the.ca).expect(t, 1, "", "exclude each other")
}

// TestRights: each door says which right is missing.
func TestRights(t *testing.T) {
	t.Parallel()
	p := newPerson(t, editor, streamReader)
	p.done("one", "yes")
	blind := p.with("blind", editor)
	blind.chatrun("logs", "one", "--via=api").expect(t, 1, "", "chatrun-stream-reader")
	blind.chatrun("logs", "one", "--stream-url=https://"+the.address, "--stream-ca="+the.ca).expect(t, 1, "", "chatrun-stream-reader")
	p.chatrun("logs", "one", "--via=port-forward").expect(t, 1, "", "list pods")
	nobody := p.with("nobody")
	for _, args := range [][]string{
		{"run", "q", "--provider=openai"}, {"run", "q"}, {"providers"}, {"list"}, {"list", "-A"}, {"watch"}, {"cancel", "one"}, {"retry", "one"}, {"continue", "one", "q"},
	} {
		nobody.chatrun(args...).expect(t, 1, "", "You lack the role chatrun-editor")
	}
	// By no door of its choice, it sees the object, and is told why once.
	s := blind.chatrun("logs", "-f", "one")
	s.expect(t, 0, "yes", "Following the object of the run")
	NewWithT(t).Expect(strings.Count(s.err, "You lack the role chatrun-stream-reader")).To(Equal(1), s.err)
	certified := p.certified(editor, streamReader)
	certified.chatrun("logs", "one", "-n", p.namespace, "--via=api").expect(t, 0, "yes")
	certified.chatrun("logs", "one", "-n", p.namespace, "--via=port-forward").expect(t, 1, "", "--stream-token-file")
	token := filepath.Join(t.TempDir(), "token")
	g := NewWithT(t)
	g.Expect(os.WriteFile(token, []byte(p.token()), 0o600)).To(Succeed())
	certified.chatrun("logs", "one", "-n", p.namespace, "--stream-url=https://"+the.address, "--stream-ca="+the.ca, "--stream-token-file="+token).expect(t, 0, "yes")
}

// TestCutConnection: a stream that is cut in its midst goes on, and the text stands once.
func TestCutConnection(t *testing.T) {
	p := newPerson(t, editor, streamReader)
	words := chattest.Words("one two three four five six seven eight nine ten")
	question := p.asks("long", chattest.Answer(words...).Pace(300*time.Millisecond))
	cmd := p.command("run", question, "--name=long", "--title=none", "--hold=false", "--via=api")
	out := &locked{buffer: &bytes.Buffer{}}
	cmd.Stdout = out
	g := NewWithT(t)
	g.Expect(cmd.Start()).To(Succeed())
	for _, word := range []string{"two", "five"} {
		g.Eventually(out.text).WithTimeout(patience).WithPolling(5 * time.Millisecond).Should(ContainSubstring(word))
		the.link.cut()
	}
	g.Expect(cmd.Wait()).To(Succeed())
	g.Expect(out.text()).To(Equal("one two three four five six seven eight nine ten"))
}

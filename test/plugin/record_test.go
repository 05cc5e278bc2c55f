// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"html"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hinshun/vt10x"
	. "github.com/onsi/gomega"

	"chatrun.dev/operator/internal/chattest"
	"chatrun.dev/operator/test/harness"
)

// The recorded session is docs/images/plugin.cast, in the format of asciinema, and
// plugin.svg the same as a picture that moves. `go test -run Recorded -update` records
// it anew.
const (
	sessionQuestion = "Why is the sky blue?"
	sessionRows     = 12
	// sessionEnd is how long the picture shows the end before it begins again.
	sessionEnd = 4 * time.Second
)

// TestRecordedSession: what the docs show is what a person sees today.
func TestRecordedSession(t *testing.T) {
	t.Parallel()
	p := newPerson(t, editor, streamReader)
	the.scripts.Store(sessionQuestion, chattest.Sequence(overloaded(), overloaded(),
		chattest.Answer(chattest.Words(sky)...).Usage(9, 14).Pace(100*time.Millisecond)))
	seen := p.terminal(p.command("run", sessionQuestion, "--name=sky"))
	g := NewWithT(t)
	g.Expect(seen.ends()).To(Equal(0))
	frames := append([]frame{{0, "$ kubectl chatrun run \"" + sessionQuestion + "\" --name=sky\r\n"}}, seen.frames...)
	for i := range frames {
		frames[i].text = strings.ReplaceAll(frames[i].text, p.namespace, "default")
	}
	images := filepath.Join(harness.Root(), "docs", "images")
	if *update {
		g.Expect(os.WriteFile(filepath.Join(images, "plugin.cast"), cast(frames), 0o600)).To(Succeed())
		g.Expect(os.WriteFile(filepath.Join(images, "plugin.svg"), picture(parse(t, cast(frames))), 0o600)).To(Succeed())
	}
	raw, err := os.ReadFile(filepath.Join(images, "plugin.cast"))
	g.Expect(err).NotTo(HaveOccurred())
	recorded := parse(t, raw)
	g.Expect(last(recorded)).To(Equal(last(frames)), "the plugin says something else today: go test -run Recorded -update")
	g.Expect(countdowns(recorded)).To(ContainElements("1 s (attempt 1", "2 s (attempt 2", "1 s (attempt 2"))
	page, err := os.ReadFile(filepath.Join(harness.Root(), "docs", "plugin.md"))
	g.Expect(err).NotTo(HaveOccurred())
	for line := range strings.SplitSeq(last(recorded), "\n") {
		g.Expect(string(page)).To(ContainSubstring(line), "docs/plugin.md shows the session in words, too")
	}
	drawn, err := os.ReadFile(filepath.Join(images, "plugin.svg"))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(string(drawn)).To(Equal(string(picture(recorded))), "the picture is of another session")
}

// cast writes frames down as asciinema does.
func cast(frames []frame) []byte {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(map[string]any{"version": 2, "width": columns, "height": sessionRows, "env": map[string]string{"TERM": "xterm-256color"}})
	for _, f := range frames {
		_ = encoder.Encode([]any{f.at.Round(time.Millisecond).Seconds(), "o", f.text})
	}
	return b.Bytes()
}

func parse(t *testing.T, raw []byte) (frames []frame) {
	t.Helper()
	lines := bufio.NewScanner(bytes.NewReader(raw))
	lines.Scan() // the header
	for lines.Scan() {
		var at float64
		var kind, text string
		if err := json.Unmarshal(lines.Bytes(), &[]any{&at, &kind, &text}); err != nil || kind != "o" {
			t.Fatalf("%s: %v", lines.Text(), err)
		}
		frames = append(frames, frame{time.Duration(at * float64(time.Second)), text})
	}
	return frames
}

// countdowns are all that were ever shown.
func countdowns(frames []frame) (all []string) {
	for _, f := range frames {
		all = append(all, regexp.MustCompile(`\d+ s \(attempt \d`).FindAllString(f.text, -1)...)
	}
	return all
}

// screens are what stands on the screen after each frame.
func screens(frames []frame) (all [][]string) {
	screen := vt10x.New(vt10x.WithSize(columns, sessionRows))
	for _, f := range frames {
		_, _ = screen.Write([]byte(f.text))
		var lines []string
		for line := range strings.SplitSeq(strings.TrimRight(screen.String(), " \n"), "\n") {
			lines = append(lines, strings.TrimRight(line, " "))
		}
		all = append(all, lines)
	}
	return all
}

func last(frames []frame) string {
	all := screens(frames)
	return strings.Join(all[len(all)-1], "\n")
}

// picture draws frames one after the other, by the rules of style sheets alone. Who wants
// nothing to move sees the end.
func picture(frames []frame) []byte {
	const cell, line, margin = 8.4, 20, 16
	all := screens(frames)
	total := frames[len(frames)-1].at + sessionEnd
	width, height := int(columns*cell)+2*margin, sessionRows*line+2*margin
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img" aria-label="A recorded session of kubectl chatrun run"><style>`, width, height)
	fmt.Fprintf(&b, `text{font:14px ui-monospace,monospace;fill:#e6edf3;white-space:pre}g{visibility:hidden}g:last-of-type{visibility:visible}`)
	fmt.Fprintf(&b, `@media (prefers-reduced-motion:no-preference){g,g:last-of-type{visibility:hidden;animation:%.2fs step-end infinite}`, total.Seconds())
	share := func(at time.Duration) float64 { return 100 * at.Seconds() / total.Seconds() }
	for i, f := range frames {
		end := 100.0
		if i+1 < len(frames) {
			end = share(frames[i+1].at)
		}
		fmt.Fprintf(&b, `#f%[1]d{animation-name:f%[1]d}@keyframes f%[1]d{0%%{visibility:hidden}%.3[2]f%%{visibility:visible}%.3[3]f%%{visibility:hidden}}`, i, share(f.at), end)
	}
	fmt.Fprintf(&b, `}</style><rect width="%d" height="%d" rx="8" fill="#0d1117"/>`, width, height)
	for i := range frames {
		fmt.Fprintf(&b, "\n<g id=\"f%d\">", i)
		for n, text := range all[i] {
			if text != "" {
				fmt.Fprintf(&b, `<text x="%d" y="%d">%s</text>`, margin, margin+(n+1)*line-6, html.EscapeString(text))
			}
		}
		b.WriteString("</g>")
	}
	b.WriteString("\n</svg>\n")
	return b.Bytes()
}

// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package screen

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/text/width"

	"chatrun.dev/operator/api/stream"
	"chatrun.dev/operator/api/v1alpha1"
)

const erased = "\r\x1b[2K"

// place is where a run is shown in a test.
type place struct {
	out, err bytes.Buffer
	view     *View
}

func shownAt(o Options) *place {
	p := &place{}
	o.Out, o.Err, o.Now = &p.out, &p.err, time.Now
	if o.OutTerminal && o.ErrTerminal {
		o.Out = &p.err // one screen
	}
	if o.Size == nil {
		o.Size = func() (int, int) { return 80, 24 }
	}
	p.view = New(o)
	return p
}

func (p *place) take(events ...any) {
	for _, e := range events {
		p.view.Take(e)
	}
}

func streaming(attempt int32) stream.Status {
	return stream.Status{Namespace: "team", Name: "hello", Phase: string(v1alpha1.PhaseStreaming), Attempt: attempt, Model: "m"}
}

func text(s string) stream.MessagePart {
	return stream.MessagePart{Role: stream.RoleAssistant, Text: s}
}

func succeeded() stream.Done {
	return stream.Done{Status: stream.Status{Phase: string(v1alpha1.PhaseSucceeded)}}
}

func expect(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s is\n%q, want\n%q", what, got, want)
	}
}

// end ends the view, and expects what is known of its text.
func (p *place) end(t *testing.T, exact bool) Outcome {
	t.Helper()
	outcome, err := p.view.End()
	if err != nil || outcome.Exact != exact {
		t.Errorf("the view ends with exact %t and %v, want %t", outcome.Exact, err, exact)
	}
	return outcome
}

func TestPipeGetsTheTextAloneAndUnchanged(t *testing.T) {
	p := shownAt(Options{})
	p.take(stream.Status{Phase: "Pending"}, streaming(1), stream.MessagePart{Reasoning: "hm"}, text("Hel\x1b[1m"), text("lo\r"),
		stream.Title{Title: "A\x1b title"}, stream.Usage{InputTokens: 3, OutputTokens: 2}, succeeded())
	if outcome := p.end(t, true); outcome.Done == nil {
		t.Error("the last event is not told")
	}
	expect(t, "the output", p.out.String(), "Hel\x1b[1mlo\r")
	expect(t, "the rest", p.err.String(), "Pending\nAttempt 1 (m, streaming)\nTitle: A^[ title\nTokens: 3 in, 2 out\n")
}

func TestHeldTextIsWrittenOnceAndExact(t *testing.T) {
	p := shownAt(Options{Hold: true})
	p.take(streaming(1), text("wrong"), stream.Reset{}, text("right"))
	expect(t, "the output before the end", p.out.String(), "")
	p.take(succeeded())
	p.end(t, true)
	expect(t, "the output", p.out.String(), "right")
}

func TestResetInAPipe(t *testing.T) {
	for name, c := range map[string]struct {
		before, after []string
		out           string
		exact         bool
	}{
		"the same text comes anew": {[]string{"Hello"}, []string{"He", "llo", " you"}, "Hello you", true},
		"another text comes":       {[]string{"Hello"}, []string{"He", "y"}, "HelloHey", false},
		"the text is shorter":      {[]string{"Hello"}, []string{"He"}, "HelloHe", false},
		"nothing was written":      {nil, []string{"Hi"}, "Hi", true},
		"nothing comes anew":       {[]string{"Hello"}, nil, "Hello", false},
	} {
		t.Run(name, func(t *testing.T) {
			p := shownAt(Options{})
			for _, s := range c.before {
				p.take(text(s))
			}
			p.take(stream.Reset{Attempt: 2})
			for _, s := range c.after {
				p.take(text(s))
			}
			p.take(succeeded())
			p.end(t, c.exact)
			expect(t, "the output", p.out.String(), c.out)
		})
	}
}

func TestTerminalShowsNoEscapeOfTheModel(t *testing.T) {
	p := shownAt(Options{OutTerminal: true, ErrTerminal: true})
	p.take(streaming(1), text("a\x1b]0;x\x07\u009b2Jb\rc"), succeeded())
	p.end(t, true)
	expect(t, "the screen", p.err.String(), "Attempt 1 (m, streaming)"+erased+"a^[]0;x2Jbc\n")
}

func TestTerminalThinking(t *testing.T) {
	p := shownAt(Options{ErrTerminal: true})
	p.take(streaming(1), stream.MessagePart{Reasoning: "hm"}, text("x"))
	expect(t, "the screen", p.err.String(), "Attempt 1 (m, streaming)"+erased+"Attempt 1 (m, the model is thinking)"+erased)
}

func TestCountdownIsRedrawnInPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := shownAt(Options{OutTerminal: true, ErrTerminal: true})
		p.take(streaming(1), text("Hel"))
		p.err.Reset()
		retry := stream.Retry{Attempt: 1, DelayMs: 2500, Error: "busy\n\x1b[2J", Reason: "Overloaded", RetryingAt: time.Now().Add(2500 * time.Millisecond)}
		p.take(retry)
		for next := p.view.Draw(); next > 0; next = p.view.Draw() {
			<-time.After(next)
		}
		expect(t, "the time that passed", time.Until(retry.RetryingAt).String(), "0s")
		p.take(retry, stream.Status{Phase: "Retrying", Attempt: 1}) // told anew after a cut
		p.take(streaming(2), text("Hello"), succeeded())
		p.end(t, true)
		const why = " (attempt 1, Overloaded)"
		expect(t, "the screen", p.err.String(), "\n(the text above is void: it begins anew)\nAttempt 1 failed: busy ^[[2J\n"+
			"Retrying in 3 s"+why+erased+"Retrying in 2 s"+why+erased+"Retrying in 1 s"+why+erased+"Retrying any moment"+why+erased+
			"Attempt 2 (m, streaming)"+erased+"Hello\n")
	})
}

func TestCountdownIsOneLineInAPipe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := shownAt(Options{})
		p.take(stream.Retry{Attempt: 2, DelayMs: 1200, Error: "busy", Reason: "RateLimited", RetryingAt: time.Now().Add(1200 * time.Millisecond)})
		<-time.After(time.Second)
		p.view.Draw()
		<-time.After(time.Second)
		p.view.Draw()
		expect(t, "what is said", p.err.String(), "Retrying in 2 s (attempt 2, RateLimited): busy\n")
	})
}

// A clock that goes wrong shows no wait longer than the one that was chosen.
func TestCountdownIsBoundedByTheDelay(t *testing.T) {
	p := shownAt(Options{ErrTerminal: true})
	p.take(stream.Retry{Attempt: 1, DelayMs: 4000, Reason: "Timeout", RetryingAt: time.Now().Add(time.Hour)})
	if !strings.HasSuffix(p.err.String(), "Retrying in 4 s (attempt 1, Timeout)") {
		t.Errorf("the screen is %q", p.err.String())
	}
}

func TestWhereARunStands(t *testing.T) {
	for name, c := range map[string]struct {
		status stream.Status
		want   string
	}{
		"pending":     {stream.Status{Phase: "Pending", Reason: v1alpha1.ReasonPending}, "Pending\n"},
		"pending why": {stream.Status{Phase: "Pending", Reason: "Why", Message: "no\x1b such"}, "Pending (Why): no^[ such\n"},
		"suspended": {
			stream.Status{Phase: "Suspended", Namespace: "team", Name: "hello"},
			"Suspended; it goes on after: kubectl chatrun resume -n team hello\n",
		},
		"succeeded": {stream.Status{Phase: "Succeeded"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := shownAt(Options{})
			p.take(c.status, c.status)
			expect(t, "what is said", p.err.String(), c.want)
		})
	}
}

func TestHowARunEnded(t *testing.T) {
	phase := func(p v1alpha1.Phase) stream.Status { return stream.Status{Phase: string(p)} }
	for name, c := range map[string]struct {
		events []any
		want   string
	}{
		"failed": {
			[]any{stream.Failed{Reason: "Refused", Message: "no\nkey\x07"}, stream.Done{Status: phase(v1alpha1.PhaseFailed)}},
			"Failed (Refused): no key\n",
		},
		"cancelled": {[]any{stream.Done{Status: phase(v1alpha1.PhaseCancelled)}}, "Cancelled; the text is what came until then\n"},
		"length": {
			[]any{stream.Done{Status: phase(v1alpha1.PhaseSucceeded), FinishReason: string(v1alpha1.FinishLength)}},
			"The answer was cut by the limit of tokens\n",
		},
		"truncated":         {[]any{stream.Done{Status: phase(v1alpha1.PhaseSucceeded), Bytes: 9, Truncated: true}}, "Not all of the answer's 9 bytes are kept\n"},
		"title of the last": {[]any{stream.Title{Title: "Old"}, stream.Done{Status: stream.Status{Phase: "Succeeded", Title: "New"}}}, "Title: New\n"},
		"title of a status": {[]any{stream.Status{Phase: "Succeeded", Title: "Kept"}}, "Title: Kept\n"},
		"nothing":           {nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := shownAt(Options{})
			p.take(c.events...)
			p.end(t, true)
			expect(t, "what is said", p.err.String(), c.want)
		})
	}
}

// columns is how many of them a terminal takes for a text.
func columns(s string) (n int) {
	for _, r := range s {
		n++
		if k := width.LookupRune(r).Kind(); k == width.EastAsianWide || k == width.EastAsianFullwidth {
			n++
		}
	}
	return n
}

func TestFitFillsNoRow(t *testing.T) {
	for _, c := range []struct {
		line  string
		width int
		want  string
	}{
		{"hello", 0, "hello"},
		{"hello", 6, "hello"},
		{"hello", 5, "hel…"},
		{"hello", 2, "…"},
		{"世界", 5, "世界"},
		{"世界世界", 6, "世界…"},
		{"a世界世界", 6, "a世…"},
		{"👋👋👋", 6, "👋👋…"},
		{"世界", 3, "…"},
	} {
		t.Run(fmt.Sprintf("%s in %d", c.line, c.width), func(t *testing.T) {
			got := fit(c.line, c.width)
			expect(t, "the line", got, c.want)
			if c.width > 1 && columns(got) >= c.width {
				t.Errorf("it takes %d columns of %d", columns(got), c.width)
			}
		})
	}
}

type gone struct{}

func (gone) Write([]byte) (int, error) { return 0, errGone }

var errGone = errors.New("nobody reads")

func TestBrokenPipeIsTold(t *testing.T) {
	v := New(Options{Out: gone{}, Err: &bytes.Buffer{}, Now: time.Now, Size: func() (int, int) { return 0, 0 }})
	v.Take(text("x"))
	if !errors.Is(v.Broken(), errGone) {
		t.Errorf("the view is broken by %v", v.Broken())
	}
	if _, err := v.End(); !errors.Is(err, errGone) {
		t.Errorf("the view ends with %v", err)
	}
}

// The text is on a terminal and the rest in a file, so nobody says that it is void.
func TestTextThatComesAnewBeginsALineOnATerminal(t *testing.T) {
	p := shownAt(Options{OutTerminal: true})
	p.take(text("Hello"), stream.Reset{Attempt: 2}, text("Hey"), succeeded())
	p.end(t, true)
	expect(t, "the output", p.out.String(), "Hello\nHey\n")
}

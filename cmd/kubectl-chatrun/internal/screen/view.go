// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package screen

import (
	"fmt"
	"io"
	"time"

	"golang.org/x/text/width"

	"chatrun.dev/operator/api/stream"
	"chatrun.dev/operator/api/v1alpha1"
)

// Outcome is what is known of a run when nothing more comes.
type Outcome struct {
	// Done is the last event, nil if the run goes on.
	Done *stream.Done
	// Exact says that what was written is the run's text, and nothing else.
	Exact bool
}

// View shows one run: its text on one stream, and what becomes of it on another.
type View struct {
	answer Answer
	err    io.Writer
	// shown says that the text is on a terminal, terminal that the other stream is, and
	// both that they are, which is one and the same then.
	shown, terminal, both bool

	now  func() time.Time
	size func() (width, height int)

	status  stream.Status
	retry   *stream.Retry
	title   string
	usage   *stream.Usage
	failed  *stream.Failed
	done    *stream.Done
	said    string
	drawn   string
	thinks  bool
	failure error
}

// Options say where a run is shown.
type Options struct {
	Out, Err io.Writer
	// OutTerminal and ErrTerminal say who is at the other end.
	OutTerminal, ErrTerminal bool
	// Hold keeps the text back until the end.
	Hold bool
	Now  func() time.Time
	// Size is how many columns and rows the terminal has; 0 is not known.
	Size func() (width, height int)
}

// New makes a view.
func New(o Options) *View {
	v := &View{
		err: o.Err, shown: o.OutTerminal, terminal: o.ErrTerminal, both: o.OutTerminal && o.ErrTerminal, now: o.Now, size: o.Size,
	}
	v.answer = Answer{Out: o.Out, Clean: o.OutTerminal, Hold: o.Hold, Diverged: v.void}
	return v
}

// Take shows an event.
func (v *View) Take(event any) {
	switch e := event.(type) {
	case stream.Status:
		v.takeStatus(e)
	case stream.MessagePart:
		v.takePart(e)
	case stream.Retry:
		v.takeRetry(e)
	case stream.Reset:
		v.answer.Reset()
	case stream.Title:
		v.title = e.Title
	case stream.Usage:
		v.usage = &e
	case stream.Failed:
		v.failed = &e
	case stream.Done:
		v.done, v.retry = &e, nil
		if e.Title != "" {
			v.title = e.Title
		}
	}
	v.Draw()
}

func (v *View) takeStatus(s stream.Status) {
	v.status = s
	if s.Title != "" {
		v.title = s.Title
	}
	switch v1alpha1.Phase(s.Phase) {
	case v1alpha1.PhaseRetrying:
		v.drop()
	case v1alpha1.PhasePending, v1alpha1.PhaseSuspended:
		v.retry = nil
		v.drop()
	default:
		v.retry = nil
	}
	v.thinks = false
}

func (v *View) takePart(p stream.MessagePart) {
	v.retry, v.thinks = nil, p.Text == ""
	if p.Text != "" {
		if v.both {
			v.erase()
		}
		v.keep(v.answer.Add(p.Text))
	}
}

func (v *View) takeRetry(r stream.Retry) {
	if v.retry != nil && v.retry.Attempt == r.Attempt && v.retry.RetryingAt.Equal(r.RetryingAt) {
		return // told anew, as after a cut
	}
	v.retry = &r
	v.drop()
	if v.terminal {
		v.Say(fmt.Sprintf("Attempt %d failed: %s", r.Attempt, Line(r.Error)))
		return
	}
	v.Say(fmt.Sprintf("%s: %s", countdown(time.Duration(r.DelayMs)*time.Millisecond, r), Line(r.Error)))
}

// drop lets a person who looks at a text know that it is none any more.
func (v *View) drop() {
	if v.both && v.answer.Written() {
		v.void()
		v.answer.Forget()
	}
}

func (v *View) void() {
	v.newLine()
	if v.both {
		v.Say("(the text above is void: it begins anew)")
	}
}

// newLine ends the line of the text on a terminal.
func (v *View) newLine() {
	if v.shown {
		v.keep(v.answer.Break())
	}
}

// Say writes a line for people, which is clean already or of our own words.
func (v *View) Say(line string) {
	v.erase()
	if v.both {
		v.newLine()
	}
	v.print(line + "\n")
}

// Draw brings the line that tells where the run stands up to date, and says when that
// will change by itself; 0 is never.
func (v *View) Draw() time.Duration {
	line, next := v.line()
	switch {
	case !v.terminal && line != v.said && v.retry == nil:
		if v.said = line; line != "" {
			v.print(line + "\n")
		}
	case v.terminal && line != v.drawn:
		v.erase()
		if line != "" && (!v.both || !v.answer.MidLine()) {
			columns, _ := v.size()
			v.print(fit(line, columns))
			v.drawn = line
		}
	}
	return next
}

// fit cuts a line so that it fills no row of a terminal: only one row can be erased.
func fit(line string, columns int) string {
	taken, cut := 0, 0
	for at, r := range line {
		// Until here the text leaves a column for the dots, and one free.
		if taken <= columns-2 {
			cut = at
		}
		taken += wide(r)
	}
	if columns <= 1 || taken < columns {
		return line
	}
	return line[:cut] + "…"
}

// wide is how many columns a character takes: two in East Asian scripts and for emoji.
func wide(r rune) int {
	switch width.LookupRune(r).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return 2
	default:
		return 1
	}
}

// erase takes the drawn line away.
func (v *View) erase() {
	if v.drawn != "" {
		v.print("\r\x1b[2K")
		v.drawn = ""
	}
}

// line is what is to be said of the run now.
func (v *View) line() (line string, next time.Duration) {
	if v.done != nil {
		return "", 0
	}
	if r := v.retry; r != nil {
		left := min(r.RetryingAt.Sub(v.now()), time.Duration(r.DelayMs)*time.Millisecond)
		if left > 0 {
			next = left - (left - 1).Truncate(time.Second)
		}
		return countdown(left, *r), next
	}
	s := v.status
	switch v1alpha1.Phase(s.Phase) {
	case v1alpha1.PhaseStreaming:
		if v.answer.Written() && v.terminal {
			return "", 0
		}
		doing := "streaming"
		if v.thinks && v.terminal {
			doing = "the model is thinking"
		}
		if s.Model != "" {
			doing = Line(s.Model) + ", " + doing
		}
		return fmt.Sprintf("Attempt %d (%s)", s.Attempt, doing), 0
	case v1alpha1.PhaseSuspended:
		return fmt.Sprintf("Suspended; it goes on after: kubectl chatrun resume -n %s %s", s.Namespace, s.Name), 0
	case v1alpha1.PhasePending:
		if s.Reason == "" || s.Reason == v1alpha1.ReasonPending {
			return "Pending", 0
		}
		return fmt.Sprintf("Pending (%s): %s", Line(s.Reason), Line(s.Message)), 0
	default:
		return "", 0
	}
}

// countdown says the same as the web page does.
func countdown(left time.Duration, r stream.Retry) string {
	why := fmt.Sprintf("(attempt %d, %s)", r.Attempt, Line(r.Reason))
	if left <= 0 {
		return "Retrying any moment " + why
	}
	return fmt.Sprintf("Retrying in %d s %s", seconds(left), why)
}

// End writes what was held and how the run ended, and says what is known.
func (v *View) End() (Outcome, error) {
	v.erase()
	exact, err := v.answer.End()
	v.keep(err)
	v.newLine()
	if v.title != "" {
		v.Say("Title: " + Line(v.title))
	}
	if v.usage != nil {
		v.Say(fmt.Sprintf("Tokens: %d in, %d out", v.usage.InputTokens, v.usage.OutputTokens))
	}
	if v.done != nil {
		v.ended(*v.done)
	}
	return Outcome{Done: v.done, Exact: exact || v.shown}, v.failure
}

func (v *View) ended(done stream.Done) {
	switch {
	case v.failed != nil:
		v.Say(fmt.Sprintf("Failed (%s): %s", Line(v.failed.Reason), Line(v.failed.Message)))
	case done.Phase == string(v1alpha1.PhaseCancelled):
		v.Say("Cancelled; the text is what came until then")
	case done.FinishReason == string(v1alpha1.FinishLength):
		v.Say("The answer was cut by the limit of tokens")
	}
	if done.Truncated {
		v.Say(fmt.Sprintf("Not all of the answer's %d bytes are kept", done.Bytes))
	}
}

func (v *View) print(text string) { v.keep(write(v.err, text)) }

// keep keeps the first failure to write, such as that of a pipe whose reader went.
func (v *View) keep(err error) {
	if v.failure == nil {
		v.failure = err
	}
}

// Broken says whether nobody reads any more.
func (v *View) Broken() error { return v.failure }

func write(w io.Writer, text string) error {
	_, err := io.WriteString(w, text)
	return err
}

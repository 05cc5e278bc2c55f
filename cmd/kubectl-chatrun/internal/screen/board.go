// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package screen

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/printers"

	"chatrun.dev/operator/api/stream"
	"chatrun.dev/operator/api/v1alpha1"
)

// Board shows many runs as they change: a table that is redrawn in place on a terminal,
// and a line for each change elsewhere.
type Board struct {
	BoardOptions

	// Rates are those of the runs that stream, if somebody counts.
	Rates map[types.UID]string

	runs    map[types.UID]*v1alpha1.ChatRun
	told    map[types.UID]string
	note    string
	drawn   string
	failure error
}

// BoardOptions say where runs are shown.
type BoardOptions struct {
	Out, Err io.Writer
	Terminal bool
	Now      func() time.Time
	// Size is how many columns and rows the terminal has; 0 is not known.
	Size func() (width, height int)
	// Namespaces says that the runs are of more than one.
	Namespaces bool
}

// NewBoard makes one.
func NewBoard(o BoardOptions) *Board {
	return &Board{BoardOptions: o, runs: map[types.UID]*v1alpha1.ChatRun{}, told: map[types.UID]string{}}
}

// Set shows a run as it is now.
func (b *Board) Set(run *v1alpha1.ChatRun) {
	before := b.runs[run.UID]
	b.runs[run.UID], b.note = run, ""
	if b.Terminal {
		return
	}
	line := b.tell(run)
	// What was over before anybody looked is no news.
	if line != b.told[run.UID] && (before != nil || !over(run)) {
		b.line(line)
	}
	b.told[run.UID] = line
}

// Remove takes a run away.
func (b *Board) Remove(run *v1alpha1.ChatRun) {
	delete(b.runs, run.UID)
	delete(b.told, run.UID)
	if !b.Terminal {
		b.line(run.Namespace + "/" + run.Name + " is gone")
	}
}

// Note says what is wrong, until something comes.
func (b *Board) Note(text string) {
	text = Line(text)
	if text != b.note && !b.Terminal {
		b.keep(write(b.Err, text+"\n"))
	}
	b.note = text
}

func (b *Board) line(text string) {
	b.keep(write(b.Out, b.Now().UTC().Format(time.RFC3339)+" "+text+"\n"))
}

// tell is a run in one line. It says when the next attempt is due by the wait that was
// chosen, so that the line is the same however late it is read.
func (b *Board) tell(run *v1alpha1.ChatRun) string {
	s := &run.Status
	attempt := stream.Retry{Reason: s.LastErrorReason}
	if s.Attempt != nil {
		attempt.Attempt = *s.Attempt
	}
	text := run.Namespace + "/" + run.Name + " "
	reason := ""
	if c := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionSucceeded); c != nil && c.Reason != string(s.Phase) && c.Reason != v1alpha1.ReasonCompleted {
		reason = " (" + c.Reason + ")"
	}
	switch {
	case s.Phase == v1alpha1.PhaseRetrying && s.DelayMs != nil:
		text += countdown(time.Duration(*s.DelayMs)*time.Millisecond, attempt)
	case attempt.Attempt > 0:
		text += fmt.Sprintf("%s%s, attempt %d", s.Phase, reason, attempt.Attempt)
	default:
		text += string(s.Phase) + reason
	}
	return Line(text)
}

func over(run *v1alpha1.ChatRun) bool {
	return meta.IsStatusConditionTrue(run.Status.Conditions, v1alpha1.ConditionFinished)
}

// Draw brings the table up to date, and says when it will change by itself.
func (b *Board) Draw() time.Duration {
	if !b.Terminal {
		return time.Hour // only changes are told
	}
	table, next := b.table()
	if table == b.drawn {
		return next
	}
	up := ""
	if n := strings.Count(b.drawn, "\n"); n > 0 {
		up = fmt.Sprintf("\x1b[%dA", n)
	}
	b.keep(write(b.Out, up+"\r\x1b[J"+table))
	b.drawn = table
	return next
}

// table is what is drawn: as many runs as there is room for, those under way first.
func (b *Board) table() (text string, next time.Duration) {
	width, height := b.Size()
	all := make([]*v1alpha1.ChatRun, 0, len(b.runs))
	for _, run := range b.runs {
		all = append(all, run)
	}
	slices.SortFunc(all, func(x, y *v1alpha1.ChatRun) int {
		return cmp.Or(last(x)-last(y), y.CreationTimestamp.Compare(x.CreationTimestamp.Time),
			cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Name, y.Name))
	})
	// The head, what is left out, the note, and the line that the cursor is in.
	shown := len(all)
	if height > 0 {
		shown = min(shown, max(1, height-4))
	}
	now, table := b.Now(), NewTable(RunColumns())
	next = time.Second // ages
	for _, run := range all[:shown] {
		AddRow(table, run, RunCells(run, now, b.Rates[run.UID]))
		if at := run.Status.RetryingAt; at != nil && at.After(now) {
			left := at.Sub(now)
			next = min(next, left-(left-1).Truncate(time.Second))
		}
	}
	var out bytes.Buffer
	if shown == 0 {
		out.WriteString("No runs yet.\n")
	} else {
		b.keep(printers.NewTablePrinter(printers.PrintOptions{Wide: true, WithNamespace: b.Namespaces}).PrintObj(table, &out))
	}
	if shown < len(all) {
		_, _ = fmt.Fprintf(&out, "… and %d more\n", len(all)-shown)
	}
	if b.note != "" {
		out.WriteString(b.note + "\n")
	}
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	for i, line := range lines {
		lines[i] = fit(strings.TrimRight(line, " "), width)
	}
	return strings.Join(lines, "\n") + "\n", next
}

// last puts those that are over behind the others.
func last(run *v1alpha1.ChatRun) int {
	if over(run) {
		return 1
	}
	return 0
}

// keep keeps the first failure to write.
func (b *Board) keep(err error) {
	if b.failure == nil {
		b.failure = err
	}
}

// Broken says whether nobody reads any more.
func (b *Board) Broken() error { return b.failure }

// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package screen

import (
	"io"
	"strings"
)

// Answer writes the text of a run to where nothing can be taken back. A draft that was
// voided and comes anew is written only from where it says something else.
type Answer struct {
	// Out is where the text goes, and Clean whether what a terminal obeys is taken out.
	Out   io.Writer
	Clean bool
	// Hold keeps the text back until the end.
	Hold bool
	// Diverged is called before a text is written anew because it says something else
	// than what was written. It may be nil.
	Diverged func()

	draft, written strings.Builder
	// same is how much of the draft is known to be what was written.
	same int
	// void says that text was written which is none of the answer, broken that a new
	// line was which is none either.
	void, broken bool
}

// Add is a part of the text.
func (a *Answer) Add(text string) error {
	a.draft.WriteString(text)
	if a.Hold {
		return nil
	}
	draft, written := a.draft.String(), a.written.String()
	until := min(len(draft), len(written))
	if draft[a.same:until] != written[a.same:until] {
		a.diverge()
		return a.write(draft)
	}
	if a.same = until; len(draft) > len(written) {
		return a.write(draft[len(written):])
	}
	return nil
}

// Reset voids the draft.
func (a *Answer) Reset() {
	a.draft.Reset()
	a.same = 0
}

// Forget voids the draft and what was written, where a person was told so.
func (a *Answer) Forget() {
	a.Reset()
	a.written.Reset()
}

// End writes what was held, and says whether what was written is the answer alone.
func (a *Answer) End() (exact bool, err error) {
	switch {
	case a.Hold:
		err = a.write(a.draft.String())
	case a.draft.Len() < a.written.Len():
		draft := a.draft.String()
		a.diverge()
		err = a.write(draft)
	}
	return !a.void, err
}

// Written says whether anything was, since it was last forgotten.
func (a *Answer) Written() bool { return a.written.Len() > 0 }

// MidLine says whether what was written ends within a line.
func (a *Answer) MidLine() bool {
	return a.Written() && !a.broken && !strings.HasSuffix(a.written.String(), "\n")
}

// Break ends the line, which is no part of the text.
func (a *Answer) Break() error {
	if !a.MidLine() {
		return nil
	}
	a.broken = true
	_, err := io.WriteString(a.Out, "\n")
	return err
}

func (a *Answer) diverge() {
	if a.Diverged != nil {
		a.Diverged()
	}
	a.written.Reset()
	a.void = true
}

func (a *Answer) write(text string) error {
	if text == "" {
		return nil
	}
	a.broken = false
	a.written.WriteString(text)
	a.same = a.written.Len()
	if a.Clean {
		text = Clean(text)
	}
	_, err := io.WriteString(a.Out, text)
	return err
}

// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"chatrun.dev/operator/api/stream"
)

// mirror makes a log the copy of one that another replica writes. It is guarded
// by the log's mutex.
//
// Until the first history is there the log holds what was written here, if
// anything was: readers keep that until there is something better.
type mirror struct {
	// started says that a relay was started, taken that the log holds what the
	// owner's does.
	started, taken bool
	// settled is closed when the first history is there, or is not to be had.
	settled chan struct{}
	over    bool // settled is closed
	// look has a value if the owner is to be looked up again, at once.
	look chan struct{}
	// probe looks it up while a connection is read; nil if there is none.
	probe *time.Timer
	// cancel ends the relay; nil before it started.
	cancel context.CancelFunc
}

func newMirror() *mirror {
	return &mirror{settled: make(chan struct{}), look: make(chan struct{}, 1)}
}

// settle lets those go on who wait for the first history.
func (m *mirror) settle() {
	if !m.over {
		m.over = true
		close(m.settled)
	}
}

// end is for a mirror that is none any more.
func (m *mirror) end() {
	m.settle()
	if m.cancel != nil {
		m.cancel()
	}
}

// nudge makes the relay look up the owner again.
func (m *mirror) nudge() {
	select {
	case m.look <- struct{}{}:
	default: // it is told already
	}
	if m.probe != nil {
		m.probe.Reset(0)
	}
}

// The events of the relay endpoint that no reader sees.
const (
	// eventLedger begins a history.
	eventLedger stream.Name = "ledger"
	// eventText is a piece of a text of which the log lost parts.
	eventText stream.Name = "text"
)

// ledger is what a log knows beside its frames, as its mirrors are told it.
type ledger struct {
	Epoch string `json:"epoch"`
	// Last is the newest frame that this ledger knows of: those up to it are
	// history, and copied as they are.
	Last uint64 `json:"last"`
	// Lost, Told and Cut are as in log and episode.
	Lost uint64 `json:"lost,omitempty"`
	Told uint64 `json:"told,omitempty"`
	Cut  uint64 `json:"cut,omitempty"`

	Status *stream.Status `json:"status,omitempty"`
	Retry  *stream.Retry  `json:"retry,omitempty"`
	Title  string         `json:"title,omitempty"`

	Attempt  int32  `json:"attempt,omitempty"`
	Open     bool   `json:"open,omitempty"`
	LastPart uint64 `json:"lastPart,omitempty"`
	// TextBytes is the size of the text that comes before the frames.
	TextBytes int `json:"textBytes,omitempty"`
}

// piece is a part of such a text.
type textPiece struct {
	Text string `json:"text"`
}

// ledger returns the log's, and moves the reader to its beginning.
func (r *reader) ledger() ledger {
	l := r.log
	l.mu.Lock()
	defer l.mu.Unlock()
	e := &l.episode
	book := ledger{
		Epoch: l.epoch, Last: l.last, Lost: l.lost, Told: l.told, Cut: e.cut,
		Status: l.status, Retry: l.retry, Title: l.title,
		Attempt: e.attempt, Open: e.open, LastPart: e.lastPart,
	}
	if l.final > 0 {
		book.Last = l.final - 1 // what ends the run is news
	}
	if e.cut > 0 {
		book.TextBytes = len(e.text)
	}
	r.seq, r.quiet, r.known, r.generation = 0, 0, max(l.lost, e.cut), l.generation
	return book
}

// errGarbage says that a replica sent what no log holds.
var errGarbage = errors.New("the other replica sent what it should not")

// maxSeq bounds the sequence numbers that are taken from others: nobody counts
// so far, and one can be added to it.
const maxSeq = 1 << 62

// restore returns a log as a ledger describes it, without its frames.
func restore(run Run, limit int, data []byte) (*log, uint64, error) {
	var book ledger
	if err := json.Unmarshal(data, &book); err != nil {
		return nil, 0, fmt.Errorf("%w: a ledger that cannot be read", errGarbage)
	}
	switch {
	case !isEpoch(book.Epoch), max(book.Last, book.Lost, book.Told, book.Cut, book.LastPart) >= maxSeq,
		book.TextBytes < 0, book.TextBytes > MaxAnswerBytes, book.Attempt < 0,
		book.Status != nil && book.Status.UID != run.UID:
		return nil, 0, fmt.Errorf("%w: a ledger of another log", errGarbage)
	}
	l := newLog(run, limit, &memory{})
	l.epoch, l.lost, l.told = book.Epoch, book.Lost, book.Told
	l.status, l.retry, l.title = book.Status, book.Retry, book.Title
	l.episode = episode{attempt: book.Attempt, open: book.Open, lastPart: book.LastPart, cut: book.Cut}
	if book.Cut > 0 {
		// Their text comes by itself.
		l.episode.heard = book.LastPart
	}
	return l, book.Last, nil
}

// isEpoch reports whether newEpoch could have returned s.
func isEpoch(s string) bool {
	return len(s) == epochLen && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") == ""
}

// copy appends a frame of another replica's log, in its own words. Frames up to
// history are what a ledger told of already.
func (l *log) copy(f *incoming, history uint64) error {
	c, ok := parseCursor(f.id)
	switch {
	case !ok, c.epoch != l.epoch, c.seq <= l.last, c.seq >= maxSeq, l.state != live:
		return fmt.Errorf("%w: a frame that is not the next one", errGarbage)
	case c.seq <= history:
		l.copyRaw(f, c)
		return nil
	}
	switch f.event {
	case stream.EventMessagePart:
		e := &l.episode
		if !e.open || e.attempt != c.attempt {
			return fmt.Errorf("%w: a part of no attempt under way", errGarbage)
		}
		l.copyRaw(f, c)
		e.lastPart = c.seq
		return nil
	case stream.EventStatus:
		return l.copyStatus(f, c)
	case stream.EventRetry:
		retry := &stream.Retry{}
		if err := f.into(retry); err != nil {
			return err
		}
		l.seal()
		l.retry = retry
	case stream.EventReset:
		// One after parts voids them; one before them begins their attempt.
		if l.episode.lastPart > 0 {
			l.seal()
			l.episode.lastPart = 0
		}
	case stream.EventTitle:
		var title stream.Title
		if err := f.into(&title); err != nil {
			return err
		}
		l.title = title.Title
		if l.status != nil {
			entitled := *l.status
			entitled.Title = title.Title
			l.status = &entitled
		}
	}
	// An event that is not known here is of a later version, and somebody else's.
	l.copyRaw(f, c)
	l.told = l.last
	return nil
}

// copyStatus appends a status. It says that an attempt begins, or that none is
// under way.
func (l *log) copyStatus(f *incoming, c cursor) error {
	status := &stream.Status{}
	if err := f.into(status); err != nil {
		return err
	}
	if status.UID != l.run.UID {
		return fmt.Errorf("%w: the status of another run", errGarbage)
	}
	switch status.Phase {
	case phaseRetrying:
		l.seal()
	case phasePending, phaseSuspended:
		l.seal()
		l.retry = nil
	default:
		if e := &l.episode; e.attempt != status.Attempt {
			l.seal()
			l.retry = nil
			*e = episode{attempt: status.Attempt, open: true}
		}
	}
	if status.Title == "" {
		status.Title = l.title
	}
	l.title, l.status = status.Title, status
	l.copyRaw(f, c)
	l.told = l.last
	return nil
}

// copyEnd appends the frames that end a run, the last of them `done`, at once.
func (l *log) copyEnd(finals []*incoming) error {
	end := End{}
	at := l.last
	for _, f := range finals {
		var err error
		switch f.event {
		case stream.EventUsage:
			end.Usage = &stream.Usage{}
			err = f.into(end.Usage)
		case stream.EventFailed:
			end.Failed = &stream.Failed{}
			err = f.into(end.Failed)
		case stream.EventDone:
			if err = f.into(&end.Done); err == nil && (f.id != endID(l.run.UID) || end.Done.UID != l.run.UID) {
				err = fmt.Errorf("%w: the end of another run", errGarbage)
			}
		}
		if err == nil && f.event != stream.EventDone {
			c, ok := parseCursor(f.id)
			if !ok || c.epoch != l.epoch || c.seq <= at || c.seq >= maxSeq {
				err = fmt.Errorf("%w: a frame that is not the next one", errGarbage)
			}
			at = c.seq
		}
		if err != nil {
			return err
		}
	}
	if l.state != live {
		return fmt.Errorf("%w: a second end", errGarbage)
	}
	l.retry, l.episode.open = nil, false
	if end.Done.Title == "" {
		end.Done.Title = l.title
	}
	l.title = end.Done.Title
	l.end, l.status = &end, &end.Done.Status
	for _, f := range finals {
		c := l.at(l.last + 1)
		if f.event != stream.EventDone {
			c, _ = parseCursor(f.id)
		}
		if l.final == 0 {
			l.final = c.seq
		}
		l.copyRaw(f, c)
	}
	l.state, l.over = ended, time.Now()
	return nil
}

func (l *log) copyRaw(in *incoming, c cursor) {
	l.last = c.seq
	f := frame{seq: c.seq, attempt: c.attempt, part: in.event == stream.EventMessagePart, data: in.raw}
	l.frames = append(l.frames, f)
	*l.sum(&f) += f.cost()
}

// copyText appends a piece of the text that comes before the frames.
func (l *log) copyText(f *incoming) error {
	var piece textPiece
	if err := f.into(&piece); err != nil {
		return err
	}
	if len(l.episode.text)+len(piece.Text) > MaxAnswerBytes {
		return fmt.Errorf("%w: a text that is too long", errGarbage)
	}
	l.episode.text = append(l.episode.text, piece.Text...)
	return nil
}

// hear decodes the text of the parts that were copied and not yet read by
// anybody who wants text. Most parts never are.
func (l *log) hear() {
	e := &l.episode
	// While a history is told its frames are behind what is known of them.
	until := min(e.lastPart, l.last)
	if e.heard >= until {
		return
	}
	i, found := l.search(e.heard)
	if found {
		i++
	}
	for ; i < len(l.frames); i++ {
		f := &l.frames[i]
		if !f.part || f.seq > until {
			continue
		}
		if text := heard(f.data); len(e.text)+len(text) <= MaxAnswerBytes {
			e.text = append(e.text, text...)
		}
	}
	e.heard = until
	l.account()
}

// heard returns the text of a part's frame; nothing of one that is garbage.
func heard(raw []byte) string {
	f, err := parseFrame(raw)
	if err != nil {
		return ""
	}
	var part stream.MessagePart
	if json.Unmarshal(f.data, &part) != nil {
		return ""
	}
	return part.Text
}

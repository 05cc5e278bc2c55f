// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"cmp"
	"slices"

	"chatrun.dev/operator/api/stream"
)

// batchFrames bounds, with maxWrite, what a reader takes at once, and what it holds
// while it is idle (1.5 KB). A batch is longer than what is streamed between
// two writes; history comes in several.
const batchFrames = 64

// reader is a cursor over one log.
type reader struct {
	log *log
	// seq is the newest frame that was handed out or is not wanted.
	seq uint64
	// quiet is the newest frame other than a part that the head stands for.
	quiet uint64
	// untitled says that the title is to be told before the final frames.
	untitled bool
	// generation is the log's when the reader was moved to its place.
	generation int
	// copies says that the reader wants every frame as it is, from where a ledger
	// was made; known is the newest dropped frame that the ledger stands for.
	copies bool
	known  uint64
}

// batch is what a reader has to write now.
type batch struct {
	frames [][]byte
	// whole, if it has a size, comes after the frames.
	whole whole
	// fallen says that the log lost more than parts: enter it anew.
	fallen bool
	// more says that further frames are there already.
	more bool
	// state is not live if nothing comes after this batch.
	state state
	// mirrored says that another replica writes the log, astray that nobody relays
	// from it yet, hollow that the run ended and its text is not here.
	mirrored, astray, hollow bool
	// fault is why a dropped log could not be mirrored; nil if it was another reason.
	fault *fault
	// known is what had been told by then.
	known knowledge
}

// resume moves the reader to a cursor, if that is exactly in the log.
func (r *reader) resume(text string) bool {
	c, ok := parseCursor(text)
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	if !ok || c.epoch != r.log.epoch {
		return false
	}
	i, found := r.log.search(c.seq)
	if !found || r.log.frames[i].attempt != c.attempt {
		return false
	}
	r.seq, r.quiet, r.generation = c.seq, 0, r.log.generation
	return true
}

// enter moves the reader to where a new one begins, and returns the frames that
// it needs before those of the log: a reset if it may hold a draft, where the
// run stands, and a pending retry. A log that was told nothing yet goes by v.
func (r *reader) enter(reset bool, v *View) [][]byte {
	l := r.log
	l.mu.Lock()
	status, retry := l.standingLocked(v)
	// All parts in the log are of the current episode.
	r.seq, r.quiet, r.generation = 0, l.told, l.generation
	r.untitled = l.state == ended && l.title != ""
	at := cursor{l.epoch, status.Attempt, nowhere}
	l.mu.Unlock()
	var head [][]byte
	if reset {
		head = append(head, event(at, stream.EventReset, encode(stream.Reset{Attempt: status.Attempt})))
	}
	head = append(head, event(at, stream.EventStatus, encode(status)))
	if retry != nil {
		head = append(head, event(at, stream.EventRetry, encode(retry)))
	}
	return head
}

// standing is the newest status that the log was told, or else that of v.
func (l *log) standing(v *View) stream.Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	status, _ := l.standingLocked(v)
	return status
}

// standingLocked is standing, and the retry that is pending.
func (l *log) standingLocked(v *View) (stream.Status, *stream.Retry) {
	status, retry := v.Status, v.Retry
	if l.status != nil {
		status, retry = *l.status, l.retry
	}
	status.Title = cmp.Or(status.Title, l.title)
	return status, retry
}

// next returns the frames after those of the call before, at most batchFrames
// and such as stand in for dropped ones, appended to into.
func (r *reader) next(into [][]byte) batch {
	l := r.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state == dropped {
		return batch{state: dropped, fault: l.fault}
	}
	b := batch{frames: into, hollow: l.hollow, known: l.knowledge()}
	if m := l.mirror; m != nil {
		b.mirrored, b.astray = true, !m.started
	}
	switch {
	case r.generation != l.generation, max(r.seq, r.quiet, r.known) < l.lost,
		r.copies && max(r.seq, r.known) < l.episode.cut:
		b.fallen = true
		return b
	case r.seq < l.episode.cut && !r.copies:
		return r.catchUp(b)
	}
	i, found := l.search(r.seq)
	if found {
		i++
	}
	for size := 0; i < len(l.frames) && len(b.frames) < batchFrames && size < maxWrite; i++ {
		f := &l.frames[i]
		r.seq = f.seq
		size += len(f.data)
		if r.untitled && f.seq >= l.final {
			r.untitled = false
			b.frames = append(b.frames, event(cursor{l.epoch, f.attempt, nowhere}, stream.EventTitle, encode(stream.Title{Title: l.title})))
		}
		if f.part || f.seq > r.quiet {
			b.frames = append(b.frames, f.data)
		}
	}
	if b.more = i < len(l.frames); !b.more {
		b.state = l.state
	}
	return b
}

// catchUp leads over parts that were dropped: whatever else was missed, a
// reset, and the text up to a part after which the log has all.
func (r *reader) catchUp(b batch) batch {
	l, e := r.log, &r.log.episode
	l.hear()
	b.more, b.whole = true, whole{at: cursor{l.epoch, e.attempt, e.lastPart}, size: len(e.text)}
	for i := range l.frames {
		f := &l.frames[i]
		if f.seq > e.lastPart {
			break
		}
		if !f.part && f.seq > r.seq && f.seq > r.quiet {
			b.frames = append(b.frames, f.data)
		}
	}
	at := cursor{l.epoch, e.attempt, nowhere}
	b.frames = append(b.frames, event(at, stream.EventReset, encode(stream.Reset{Attempt: e.attempt})))
	r.seq = e.lastPart
	return b
}

// search finds the first frame that is not before seq.
func (l *log) search(seq uint64) (int, bool) {
	// Most readers have all but the last.
	if n := len(l.frames); n > 1 && l.frames[n-2].seq == seq {
		return n - 2, true
	}
	return slices.BinarySearchFunc(l.frames, seq, func(f frame, seq uint64) int {
		return cmp.Compare(f.seq, seq)
	})
}

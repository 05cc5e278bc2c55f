// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"sync"
	"sync/atomic"
	"time"

	"chatrun.dev/operator/api/stream"
	"chatrun.dev/operator/internal/provider"
)

// The phases of a run at which its log behaves differently.
const (
	phasePending   = "Pending"
	phaseStreaming = "Streaming"
	phaseRetrying  = "Retrying"
	phaseSuspended = "Suspended"
	phaseSucceeded = "Succeeded"
)

// finishLength is the finish reason of an answer that the model's limit cut.
const finishLength = "Length"

// log is the stream of one run: all frames but parts since its beginning, and
// the parts of the current episode. Frames are appended, read by cursors, and
// taken out when an episode ends or the log grows too large.
type log struct {
	run    Run
	epoch  string
	limit  int
	memory *memory

	// Guarded by Hub.mu: how many readers hold the log, whether an attempt began
	// here, whether its grace is over, and what ends it. One that nobody writes
	// lives as long as its readers.
	readers int
	begun   bool
	expired bool
	grace   *time.Timer

	mu     sync.Mutex
	frames []frame // by seq, with gaps
	last   uint64  // seq of the newest frame ever
	// parts and controls are the costs of the frames that are parts, and of the
	// others; held is what memory was told of them.
	parts, controls, held int
	// released says that nobody will read the log.
	released bool
	// lost is the newest seq at which a frame other than a part was dropped.
	lost uint64
	// told is the newest seq that a reader who is given the head has no need
	// of: all but the final frames.
	told uint64

	status  *stream.Status // the latest told; nil if none was
	retry   *stream.Retry  // pending
	title   string
	episode episode
	state   state
	// end is how the run finished, over when, and final the seq of the first frame
	// that says so; all zero while it is under way.
	end   *End
	final uint64
	over  time.Time

	// mirror is there while another replica writes the log, generation counts how
	// often all that readers have of it became void.
	mirror     *mirror
	generation int
	// fault is why a log that was dropped could not be mirrored; nil if it was
	// dropped for any other reason. hollow says that the run ended, and that its
	// text is not here.
	fault  *fault
	hollow bool

	// news counts how often there was something to read, alarms how often it was
	// something that suffers no delay, all how often anything was appended, that which
	// is held back from news included. They change under mu.
	news, alarms, all atomic.Uint64
	// ringing guards bells, which wake readers, and those of them that are hurried. It
	// may be taken with mu held. crowd is how many bells there are.
	ringing        sync.Mutex
	bells, hurried []*bell
	crowd          atomic.Int32
	// counted is when news was counted last, if very many read, holding that parts are
	// held back until it is again. perReader is the time between two writes to a crowd
	// for each of it.
	counted   time.Time
	holding   bool
	perReader time.Duration
	// more is closed and taken away at any frame. It is made for whoever waits and
	// has no bell yet.
	more chan struct{}
}

// episode is the current one; its parts are in the log.
type episode struct {
	attempt int32
	// open says that parts are accepted.
	open bool
	// lastPart is the seq of its newest part, cut that of its newest dropped one.
	lastPart, cut uint64
	text          []byte
	// heard is the seq of the newest part whose text is in text.
	heard uint64
}

// whole is the text of an episode up to a part, as one frame. It is made for
// readers whose next part was dropped. Nobody holds it encoded: many slow
// readers of a long answer would take all memory.
type whole struct {
	at   cursor
	size int
}

// state says whether frames may still come.
type state uint8

const (
	live    state = iota
	ended         // the last frame is there
	dropped       // the run is gone: stop reading
)

func newLog(run Run, limit int, memory *memory) *log {
	return &log{run: run, epoch: newEpoch(), limit: limit, memory: memory, perReader: perReader}
}

func messagePart(kind provider.PartKind, text string) stream.MessagePart {
	if kind == provider.Reasoning {
		return stream.MessagePart{Role: stream.RoleAssistant, Reasoning: text}
	}
	return stream.MessagePart{Role: stream.RoleAssistant, Text: text}
}

// begin starts the episode of an attempt.
func (l *log) begin(status stream.Status) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state != live {
		return
	}
	l.promote()
	l.seal()
	l.retry = nil
	l.appendStatus(status)
	if status.Attempt > 1 {
		l.appendControl(stream.EventReset, stream.Reset{Attempt: status.Attempt})
	}
	l.episode = episode{attempt: status.Attempt, open: true}
	l.publish(false)
}

// part appends a part, unless it is a late one.
func (l *log) part(attempt int32, kind provider.PartKind, text string, data []byte) {
	// Without mu: thousands may wake up, and each of them takes it.
	if first, news := l.add(attempt, kind, text, data); news {
		l.ring(first)
	} else {
		l.hurry()
	}
}

// add appends a part, and reports whether it is the first of its attempt, for which
// people wait: no write before it holds it up. It is news if the caller is to ring.
func (l *log) add(attempt int32, kind provider.PartKind, text string, data []byte) (first, news bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := &l.episode
	if l.state != live || !e.open || e.attempt != attempt || l.copied() {
		return false, false
	}
	first = e.lastPart == 0
	l.append(stream.EventMessagePart, data)
	e.lastPart, e.heard = l.last, l.last
	if kind == provider.Text {
		e.text = append(e.text, text...)
	}
	return first, l.keep(true, first)
}

// tell appends a status. A phase in which no attempt is under way ends the
// episode; where that voids its text, readers are told to drop theirs.
func (l *log) tell(status stream.Status) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state != live {
		return
	}
	l.promote()
	switch status.Phase {
	case phaseRetrying:
		l.seal()
	case phasePending, phaseSuspended:
		l.retry = nil
		l.seal()
	}
	l.appendStatus(status)
	if status.Phase == phasePending || status.Phase == phaseSuspended {
		l.voidDraft()
	}
	l.publish(false)
}

// fail ends the episode and announces the next attempt. The parts go in the
// same moment as the frames come, so nobody can read one after the other.
func (l *log) fail(status stream.Status, retry stream.Retry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state != live {
		return
	}
	l.promote()
	l.seal()
	l.appendStatus(status)
	l.retry = &retry
	l.appendControl(stream.EventRetry, retry)
	l.publish(true)
}

func (l *log) entitle(title string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if title == "" || title == l.title || l.copied() {
		return
	}
	l.title = title
	if l.status != nil {
		// A copy: the status may be that of an end which others hold.
		entitled := *l.status
		entitled.Title = title
		l.status = &entitled
	}
	if l.state != live {
		return // it came late; who joins from now on is told
	}
	l.appendControl(stream.EventTitle, stream.Title{Title: title})
	l.publish(false)
}

// finish appends the final frames, for which nothing is dropped, and reports
// whether they were missing. No log has nobody to tell.
func (l *log) finish(end End) bool {
	if l == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.finishLocked(end)
}

func (l *log) finishLocked(end End) bool {
	if l.state != live {
		return false
	}
	if m := l.mirror; m != nil {
		if m.taken && (m.probe != nil || !l.whole(end)) {
			// The owner has the text, and tells the end as well; if it does not, the
			// relay finds it out.
			m.nudge()
			return false
		}
		m.end()
	}
	if e := &l.episode; !end.Void && e.lastPart > 0 && e.attempt != end.Done.Attempt {
		l.end, l.hollow, l.state, l.over = &end, true, ended, time.Now()
		l.account()
		l.notify(true)
		return true
	}
	l.retry = nil
	if end.Void {
		l.seal()
	}
	if !l.episode.open {
		l.voidDraft()
	}
	l.episode.open = false
	if end.Done.Title == "" {
		end.Done.Title = l.title
	}
	l.title = end.Done.Title
	l.end, l.final, l.status = &end, l.last+1, &end.Done.Status
	if end.Usage != nil {
		l.append(stream.EventUsage, encode(end.Usage))
	}
	if end.Failed != nil {
		l.append(stream.EventFailed, encode(end.Failed))
	}
	l.append(stream.EventDone, encode(end.Done))
	l.state, l.over = ended, time.Now()
	l.account()
	l.notify(true)
	return true
}

// drop cuts all readers; no log has none.
func (l *log) drop() {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dropLocked()
}

func (l *log) dropLocked() {
	if l.mirror != nil {
		l.mirror.end()
	}
	l.state = dropped
	// Those who still hold the log need nothing of it.
	l.frames, l.parts, l.controls, l.episode.text = nil, 0, 0, nil
	l.account()
	l.notify(true)
}

// seal ends the episode and takes its parts out of the log.
func (l *log) seal() {
	e := &l.episode
	if !e.open {
		return
	}
	e.open = false
	if e.lastPart == 0 {
		return
	}
	l.remove(func(f *frame) bool { return f.part })
	// The text is void. That there was one is remembered by lastPart.
	e.text, e.cut = nil, 0
}

// voidDraft tells readers to drop what they hold of an ended episode, where no
// new attempt will.
func (l *log) voidDraft() {
	if l.episode.lastPart == 0 {
		return
	}
	l.episode.lastPart = 0
	l.appendControl(stream.EventReset, stream.Reset{Attempt: l.episode.attempt})
}

func (l *log) appendStatus(status stream.Status) {
	if status.Title == "" {
		status.Title = l.title
	}
	l.title = status.Title
	l.status = &status
	l.appendControl(stream.EventStatus, status)
}

func (l *log) appendControl(what stream.Name, data any) {
	l.append(what, encode(data))
	l.told = l.last
}

func (l *log) append(what stream.Name, data []byte) {
	l.last++
	at := l.at(l.last)
	f := frame{seq: l.last, attempt: at.attempt, part: what == stream.EventMessagePart}
	if what == stream.EventDone {
		f.data = eventWithID([]byte(endID(l.run.UID)), what, data)
	} else {
		f.data = event(at, what, data)
	}
	l.frames = append(l.frames, f)
	*l.sum(&f) += f.cost()
}

// at is the cursor of a frame that is made now.
func (l *log) at(seq uint64) cursor {
	c := cursor{epoch: l.epoch, seq: seq}
	if l.status != nil {
		c.attempt = l.status.Attempt
	}
	return c
}

// publish shows readers what was appended, within the log's bound.
func (l *log) publish(urgent bool) {
	l.trim(l.limit)
	l.account()
	l.notify(urgent)
}

// keep is publish for whoever rings then. It reports whether to, which is not so of a
// part that is to share a write with others.
func (l *log) keep(part, urgent bool) bool {
	l.trim(l.limit)
	l.account()
	if part && !urgent && l.hold() {
		return false
	}
	l.count(urgent)
	return true
}

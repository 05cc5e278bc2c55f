// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"context"
	"sync"
	"time"

	"chatrun.dev/operator/api/stream"
	"chatrun.dev/operator/internal/provider"
)

// Hub keeps the logs of the runs that are under way here, were a moment ago, or
// have readers. Its methods may be called by any goroutine and never wait for a
// reader.
//
// Its exported fields may be changed before it is used.
type Hub struct {
	// LogBytes bounds the frames that one log keeps, TotalBytes those of all logs
	// together.
	LogBytes, TotalBytes int
	// Grace is how long a log outlives its run, for readers that resume.
	Grace time.Duration

	memory    memory
	perReader time.Duration

	mu   sync.RWMutex
	logs map[string]*log // by UID
	// begun finds the run that has a name at present, among those that began.
	begun   map[name]string
	readers int
	closed  bool
	closing context.Context
	close   context.CancelFunc
}

// End is how a run finished.
type End struct {
	Usage  *stream.Usage  // nil if nobody reported one
	Failed *stream.Failed // nil unless it failed
	Done   stream.Done
	// Void says that no text is kept of the run, as what a failed attempt wrote
	// is no answer: readers are told to drop what they have.
	Void bool
}

// NewHub returns a hub with the default bounds.
func NewHub() *Hub {
	closing, cancel := context.WithCancel(context.Background())
	return &Hub{
		LogBytes: DefaultLogBytes, TotalBytes: DefaultTotalBytes, Grace: DefaultGrace, perReader: perReader,
		logs: map[string]*log{}, begun: map[name]string{},
		closing: closing, close: cancel,
	}
}

// Begin says that a counted attempt, status.Attempt, starts. It opens the log
// if there is none, and drops one of another run that had this name. Readers
// get the status, and a reset unless the attempt is the first.
func (h *Hub) Begin(run Run, status stream.Status) {
	h.mu.Lock()
	if uid, ok := h.begun[run.key()]; ok && uid != run.UID {
		h.removeLocked(uid).drop()
	}
	l := h.openLocked(run)
	l.begun = true
	h.begun[run.key()] = run.UID
	h.mu.Unlock()
	l.begin(status)
}

// Part appends a part of an attempt. It is dropped unless that attempt is the
// current one, and no Retry, Finish or Drop came meanwhile.
func (h *Hub) Part(uid string, attempt int32, p provider.Part) {
	if l := h.find(uid); l != nil {
		l.part(attempt, p.Kind, p.Text, encodePart(p.Kind, p.Text))
		h.relieve()
	}
}

// Tell says that the status changed. A phase of Pending or Suspended ends the
// episode and voids its text. Without a log it does nothing.
func (h *Hub) Tell(run Run, status stream.Status) {
	if l := h.find(run.UID); l != nil {
		l.tell(status)
	}
}

// Retry says that the attempt failed and another will be made. It ends the
// episode, and takes its parts away: no reader gets one any more. Readers get
// the status, then the retry. Without a log it does nothing.
func (h *Hub) Retry(run Run, status stream.Status, retry stream.Retry) {
	if l := h.find(run.UID); l != nil {
		l.fail(status, retry)
		h.relieve()
	}
}

// Title says that the run has this title. Without a log it does nothing.
func (h *Hub) Title(run Run, title string) {
	if l := h.find(run.UID); l != nil {
		l.entitle(title)
	}
}

// Finish says how the run finished. Readers get usage, failed and done. The log
// stays for Grace, for those who resume. Without a log it does nothing.
func (h *Hub) Finish(run Run, end End) {
	l := h.find(run.UID)
	if !l.finish(end) {
		return
	}
	h.mu.Lock()
	// Where no attempt began there is nothing that the run's object cannot tell.
	keep := l.begun && !l.hollow && h.Grace > 0 && h.logs[run.UID] == l
	if keep {
		l.grace = time.AfterFunc(h.Grace, func() { h.expire(l) })
	}
	h.mu.Unlock()
	if !keep {
		h.expire(l)
	}
	h.relieve()
}

// expire forgets a log, or leaves that to the last of its readers.
func (h *Hub) expire(l *log) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l.expired = true
	if l.readers == 0 && h.logs[l.run.UID] == l {
		h.removeLocked(l.run.UID)
	}
}

// evict forgets a log at once, and cuts its readers.
func (h *Hub) evict(l *log) {
	h.mu.Lock()
	if h.logs[l.run.UID] == l {
		h.removeLocked(l.run.UID)
	}
	h.mu.Unlock()
	l.drop()
}

// Drop says that the run is gone. Its readers are cut.
func (h *Hub) Drop(uid string) {
	h.mu.Lock()
	l := h.removeLocked(uid)
	h.mu.Unlock()
	l.drop()
}

// Close ends all readers, at a frame's border, and refuses further ones, so
// that a server's Shutdown need not wait for them. They may resume elsewhere.
func (h *Hub) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closed {
		h.closed = true
		h.close()
	}
}

// Readers returns the number of readers at this moment.
func (h *Hub) Readers() int {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.readers
}

// join registers a reader at the log of a run, which it opens if need be. It
// returns nil once the hub is closed. Each log returned is to be left.
func (h *Hub) join(run Run) *log {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil
	}
	return h.registerLocked(h.openLocked(run))
}

// joinWritten is join for a log in which an attempt began, and returns nil if
// there is none.
func (h *Hub) joinWritten(run Run) *log {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.logs[run.UID]
	if h.closed || l == nil || !l.begun {
		return nil
	}
	return h.registerLocked(l)
}

func (h *Hub) registerLocked(l *log) *log {
	l.readers++
	h.readers++
	return l
}

// leave ends a join. A log in which no attempt began, or whose grace is over,
// goes with its last reader.
func (h *Hub) leave(l *log) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l.readers--
	h.readers--
	switch {
	case l.readers > 0:
	case h.logs[l.run.UID] != l:
		l.release()
	case !l.begun, l.expired:
		h.removeLocked(l.run.UID)
	}
}

// written reports whether an attempt began in the log, here or where it is
// mirrored from.
func (h *Hub) written(l *log) bool {
	h.mu.RLock()
	begun := l.begun
	h.mu.RUnlock()
	return begun || l.taken()
}

func (h *Hub) find(uid string) *log {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.logs[uid]
}

func (h *Hub) openLocked(run Run) *log {
	l := h.logs[run.UID]
	if l == nil {
		l = newLog(run, h.LogBytes, &h.memory)
		l.perReader = h.perReader
		h.logs[run.UID] = l
	}
	return l
}

// removeLocked forgets a log, and returns it; nil if there is none. What it
// holds is given back by the last that holds it.
func (h *Hub) removeLocked(uid string) *log {
	l := h.logs[uid]
	if l == nil {
		return nil
	}
	delete(h.logs, uid)
	if h.begun[l.run.key()] == uid {
		delete(h.begun, l.run.key())
	}
	if l.grace != nil {
		l.grace.Stop()
	}
	if l.readers == 0 {
		l.release()
	}
	return l
}

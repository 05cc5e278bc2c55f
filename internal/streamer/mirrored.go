// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import "time"

// take puts a history that was restored in the place of what the log holds. It
// reports false if the log is no mirror any more.
func (l *log) take(m *mirror, from *log) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mirror != m || l.state != live {
		return false
	}
	l.epoch, l.frames, l.last, l.parts, l.controls = from.epoch, from.frames, from.last, from.parts, from.controls
	l.lost, l.told, l.status, l.retry, l.title = from.lost, from.told, from.status, from.retry, from.title
	l.episode, l.state, l.end, l.final, l.over = from.episode, from.state, from.end, from.final, from.over
	// Sequence numbers may have gone back: whoever reads begins anew.
	l.generation++
	m.taken = true
	m.settle()
	l.publish(true)
	return true
}

// promote makes a mirror a log that is written here. What was copied is void,
// and a new epoch begins.
func (l *log) promote() {
	m := l.mirror
	if m == nil {
		return
	}
	m.end()
	l.mirror = nil
	if !m.taken {
		return
	}
	l.epoch, l.frames, l.last, l.parts, l.controls = newEpoch(), nil, 0, 0, 0
	l.lost, l.told, l.status, l.retry, l.episode = 0, 0, nil, nil, episode{}
	l.generation++
}

// copied reports whether the log holds what another replica wrote.
func (l *log) copied() bool { return l.mirror != nil && l.mirror.taken }

// taken is copied for those who do not hold the mutex.
func (l *log) taken() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.copied()
}

// ended reports whether the last frame is there.
func (l *log) ended() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state != live
}

// mirrored reports whether another replica is to write the log.
func (l *log) mirrored() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mirror != nil
}

// estrange makes the log a mirror. If it is one, the owner is looked up again
// where there is news.
func (l *log) estrange(news bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.state != live:
	case l.mirror == nil:
		l.mirror = newMirror()
		l.notify(true) // somebody has to start the relay
	case news:
		l.mirror.nudge()
	}
}

// reclaim is for a mirror whose run turns out to be this replica's, as v says. It
// reports whether that ends the relay. What was copied of an attempt that is under
// way stays until the next one is begun here, or this one is written off. A run that
// waits may do so for long without a word from here, and others are to read it here.
func (l *log) reclaim(m *mirror, v *View) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.mirror != m:
		return true
	case m.taken && v.Status.Phase == phaseStreaming:
		return false
	}
	taken := m.taken
	l.promote()
	if taken {
		l.status, l.retry, l.title = &v.Status, v.Retry, v.Title
		l.notify(true)
	}
	return true
}

// follow lets change append what came from the owner, unless the log is no
// mirror any more: then it returns errOver.
func (l *log) follow(m *mirror, change func(*log) error, urgent bool) error {
	urgent, news, err := l.change(m, change, urgent)
	if news {
		l.ring(urgent) // without mu, as for a part of our own
	}
	return err
}

// change is follow for whoever rings then, and reports whether to, and whether that is
// urgent: the first part of an attempt is, as at its owner.
func (l *log) change(m *mirror, change func(*log) error, wasUrgent bool) (urgent, news bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mirror != m || l.state != live {
		return false, false, errOver
	}
	none, last := l.episode.lastPart == 0, l.last
	if err := change(l); err != nil {
		return false, false, err
	}
	part := l.last > last && l.episode.lastPart == l.last
	urgent = wasUrgent || none && part
	return urgent, l.keep(part, urgent), nil
}

// conclude ends a mirror whose run is finished as its object tells. If its text
// is not all here, readers are given that of the object.
func (l *log) conclude(m *mirror, end End) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.mirror != m || l.state != live:
	case m.taken && l.whole(end):
		// Nothing is connected any more, so it ends here.
		l.finishLocked(end)
	default:
		m.end()
		l.end, l.hollow, l.state, l.over = &end, true, ended, time.Now()
		l.notify(true)
	}
}

// abandon ends a mirror that cannot go on. It reports whether it did: the log
// may be no mirror any more.
func (l *log) abandon(m *mirror, why *fault) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mirror != m || l.state != live {
		return false
	}
	l.fault = why
	l.dropLocked()
	return true
}

// place is the id of the newest frame; empty if it is not here, or not the
// owner's.
func (l *log) place(m *mirror) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.frames)
	if l.mirror != m || !m.taken || n == 0 || l.frames[n-1].seq != l.last {
		return ""
	}
	return cursor{l.epoch, l.frames[n-1].attempt, l.last}.String()
}

// probe calls look when there is news of the owner, and each time after as long
// as it says, until stop is called.
func (l *log) probe(m *mirror, look func() time.Duration) (stop func()) {
	again := func() {
		next := look()
		l.mu.Lock()
		defer l.mu.Unlock()
		if m.probe != nil {
			m.probe.Reset(next)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	m.probe = time.AfterFunc(ownerLook, again)
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		m.probe.Stop()
		m.probe = nil
	}
}

// settled is closed once the log is not waiting for a first history.
func (l *log) settled() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mirror == nil {
		c := make(chan struct{})
		close(c)
		return c
	}
	return l.mirror.settled
}

// behind returns nil unless the log is a copy that lacks the frame of a cursor which
// a reader has already, from the owner or a faster copy. The channel is closed when
// there is more.
func (l *log) behind(after string) <-chan struct{} {
	c, ok := parseCursor(after)
	l.mu.Lock()
	defer l.mu.Unlock()
	if !ok || !l.copied() || l.state != live || c.epoch != l.epoch || c.seq <= l.last {
		return nil
	}
	l.mirror.nudge()
	if l.more == nil {
		l.more = make(chan struct{})
	}
	return l.more
}

// faulted is why the log could not be mirrored; nil if it can.
func (l *log) faulted() *fault {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fault
}

// Elsewhere says that a run is another live replica's. Readers of its log are
// switched to what that replica writes; those that are other replicas are ended,
// and look again. Without a log it does nothing. It is cheap, and may be called
// whenever the run is seen.
func (h *Hub) Elsewhere(run Run) {
	l := h.find(run.UID)
	if l == nil || l.ended() {
		return
	}
	h.mu.Lock()
	l.begun = false
	if h.begun[run.key()] == run.UID {
		delete(h.begun, run.key())
	}
	if l.readers == 0 && h.logs[run.UID] == l {
		h.removeLocked(run.UID)
	}
	h.mu.Unlock()
	l.estrange(true)
}

// estrange is Elsewhere for a log in which no attempt began here.
func (h *Hub) estrange(l *log) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !l.begun {
		l.estrange(false)
	}
}

// abandon ends a mirror that cannot go on, and forgets it, so that who comes
// next tries anew.
func (h *Hub) abandon(l *log, m *mirror, why *fault) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l.abandon(m, why) && h.logs[l.run.UID] == l {
		h.removeLocked(l.run.UID)
	}
}

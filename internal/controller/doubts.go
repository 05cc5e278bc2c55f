// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

const (
	// firstConflictDelay is about what the cache needs to catch up with a write.
	firstConflictDelay = 10 * time.Millisecond
	// maxConflictDelay bounds the wait: a conflict is no failure, and someone who
	// keeps editing a run must not keep it waiting.
	maxConflictDelay = time.Second
	// liveAfterConflicts is how many conflicts in a row the cache may cause
	// before we read past it.
	liveAfterConflicts = 2
	// refusedPatience is how long an answer that the API server refuses to keep is
	// tried again, at intervals that double from minRefusedDelay: it is held in
	// memory until then.
	refusedPatience = 30 * time.Second
	minRefusedDelay = time.Second
)

// doubts hold, by the name of a run, why what we know of it may be wrong. An
// entry lives until a reconcile went through.
type doubts struct {
	mu     sync.Mutex
	byName map[types.NamespacedName]doubt
}

type doubt struct {
	// conflicts counts the times in a row that the cache was too old.
	conflicts int
	// owed is an attempt whose count may stand, and that was not made.
	owed owed
	// refusedSince is when the API server first refused to keep the answer; zero
	// if it did not.
	refusedSince time.Time
}

// owed names an attempt, and what allowed it; the zero value is none. A fence voids
// it: while others may have taken the run over, only a write tells whether they did.
type owed struct {
	uid     types.UID
	attempt int32
	pass    int
}

// conflict counts one more, and returns how long to wait before reading again.
func (d *doubts) conflict(key types.NamespacedName) time.Duration {
	conflicts := 0
	d.change(key, func(e *doubt) {
		e.conflicts++
		conflicts = e.conflicts
	})
	delay := firstConflictDelay
	for range conflicts - 1 {
		if delay *= 2; delay >= maxConflictDelay {
			return maxConflictDelay
		}
	}
	return delay
}

// owe remembers an attempt whose count was written, for all we know, and that
// is to be made if it stands.
func (d *doubts) owe(key types.NamespacedName, o owed) {
	d.change(key, func(e *doubt) { e.owed = o })
}

// refusal tells of an answer that the API server refuses to keep. It returns
// when to try again, and false if it refused for long enough.
func (d *doubts) refusal(key types.NamespacedName, now time.Time) (time.Duration, bool) {
	var since time.Duration
	d.change(key, func(e *doubt) {
		if e.refusedSince.IsZero() {
			e.refusedSince = now
		}
		since = now.Sub(e.refusedSince)
	})
	return max(since, minRefusedDelay), since < refusedPatience
}

// of returns the attempt that is owed, and whether to read past the cache: it
// was too old too often, or a count is in question.
func (d *doubts) of(key types.NamespacedName) (owed, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.byName[key]
	return e.owed, e.conflicts >= liveAfterConflicts || e.owed != owed{}
}

// owing returns the runs of which an attempt is owed.
func (d *doubts) owing() []types.NamespacedName {
	d.mu.Lock()
	defer d.mu.Unlock()
	var keys []types.NamespacedName
	for key, e := range d.byName {
		if e.owed != (owed{}) {
			keys = append(keys, key)
		}
	}
	return keys
}

// clear ends all doubts about a run.
func (d *doubts) clear(key types.NamespacedName) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.byName, key)
}

func (d *doubts) change(key types.NamespacedName, by func(*doubt)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.byName == nil {
		d.byName = map[types.NamespacedName]doubt{}
	}
	e := d.byName[key]
	by(&e)
	d.byName[key] = e
}

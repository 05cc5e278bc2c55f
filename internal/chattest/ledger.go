// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package chattest

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// MaxRecorded is how many requests Ledger.Requests keeps, the first ones; a
// record holds a request whole, and a benchmark makes many. Counts go on.
const MaxRecorded = 1 << 16

// State is how far a request got.
type State string

// The states of a request. All but Live are final.
const (
	// Live: it arrived, and its response is not at its end.
	Live State = "Live"
	// Completed: a whole answer went out, its terminal event included.
	Completed State = "Completed"
	// Refused: it was answered with an HTTP error.
	Refused State = "Refused"
	// Broken: a fault of the script or the server's Close ended it, or its body was
	// no answer of a vendor's.
	Broken State = "Broken"
	// Cancelled: the client went away first.
	Cancelled State = "Cancelled"
)

// Ledger counts what a Server was asked. Every request is in it before
// anything is answered, and leaves Live before the last byte of its response is
// sent, so a client that calls again at the end of one answer is never counted
// as calling twice at once. A request that its client abandons is Live until
// the server sees the connection close. It is safe for concurrent use.
type Ledger struct {
	mu      sync.Mutex
	entries []*entry
	tallies map[tallyKey]*Tally
	totals  map[Purpose]*Tally
	seq     int
	strays  int
	changed chan struct{} // closed and replaced at a change, if someone waits

	waiters atomic.Int32
}

type tallyKey struct {
	key     string
	purpose Purpose
}

// Tally counts the requests with one key and purpose, or all with one purpose.
type Tally struct {
	// Count is how many arrived. It is the sum of Live and the final states.
	Count int `json:"count"`
	// Live is how many are under way, and MaxLive how many ever were at once.
	Live      int `json:"live"`
	MaxLive   int `json:"maxLive"`
	Completed int `json:"completed"`
	Refused   int `json:"refused"`
	Broken    int `json:"broken"`
	Cancelled int `json:"cancelled"`
}

// Entry is one request as the ledger knows it.
type Entry struct {
	Request Request
	// At is when it arrived, and Over when it left Live; zero while it has not.
	At, Over time.Time
	State    State
	// Parts is how many parts were sent.
	Parts int
}

// entry is an Entry under way. Its state is guarded by the ledger's mutex.
type entry struct {
	request     Request
	at, over    time.Time
	state       State
	parts       atomic.Int64
	tally, sums *Tally
}

func newLedger() *Ledger {
	return &Ledger{
		tallies: map[tallyKey]*Tally{},
		totals:  map[Purpose]*Tally{PurposeAnswer: {}, PurposeTitle: {}},
		changed: make(chan struct{}),
	}
}

// arrive counts a request, and gives it its numbers.
func (l *Ledger) arrive(r *Request, at time.Time) *entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := tallyKey{r.Key, r.Purpose}
	tally := l.tallies[key]
	if tally == nil {
		tally = &Tally{}
		l.tallies[key] = tally
	}
	e := &entry{at: at, state: Live, tally: tally, sums: l.totals[r.Purpose]}
	for _, t := range []*Tally{e.tally, e.sums} {
		t.Count++
		t.Live++
		t.MaxLive = max(t.MaxLive, t.Live)
	}
	l.seq++
	r.Seq, r.N = l.seq, tally.Count
	e.request = *r
	if len(l.entries) < MaxRecorded {
		l.entries = append(l.entries, e)
	}
	l.notify()
	return e
}

// settle gives a request its state. A later one corrects an earlier one: the
// last write of an answer that was settled as completed may still fail.
func (l *Ledger) settle(e *entry, state State) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range []*Tally{e.tally, e.sums} {
		*t.of(e.state)--
		*t.of(state)++
	}
	if e.state == Live {
		e.over = time.Now()
	}
	e.state = state
	l.notify()
}

// of returns the count of a state.
func (t *Tally) of(s State) *int {
	switch s {
	case Completed:
		return &t.Completed
	case Refused:
		return &t.Refused
	case Broken:
		return &t.Broken
	case Cancelled:
		return &t.Cancelled
	default:
		return &t.Live
	}
}

// sent counts a part.
func (l *Ledger) sent(e *entry) {
	e.parts.Add(1)
	// Nobody waits as a rule, and a stream has many parts: no lock for them.
	if l.waiters.Load() > 0 {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.notify()
	}
}

// stray counts a request to neither vendor's path.
func (l *Ledger) stray() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.strays++
	l.notify()
}

// notify wakes whoever waits. The caller holds the mutex.
func (l *Ledger) notify() {
	if l.waiters.Load() > 0 {
		close(l.changed)
		l.changed = make(chan struct{})
	}
}

// WaitFor returns once done reports true, which it is asked at every change, or
// with the cause of ctx's end. It does not poll.
func (l *Ledger) WaitFor(ctx context.Context, done func(*Ledger) bool) error {
	l.waiters.Add(1)
	defer l.waiters.Add(-1)
	for {
		// Taken before the question, so that no change falls between the two.
		l.mu.Lock()
		changed := l.changed
		l.mu.Unlock()
		if done(l) {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-changed:
		}
	}
}

// Requests returns the first MaxRecorded requests in the order of their arrival.
func (l *Ledger) Requests() []Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	entries := make([]Entry, len(l.entries))
	for i, e := range l.entries {
		entries[i] = Entry{e.request, e.at, e.over, e.state, int(e.parts.Load())}
	}
	return entries
}

// Total returns the sums over all keys.
func (l *Ledger) Total(purpose Purpose) Tally {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t := l.totals[purpose]; t != nil {
		return *t
	}
	return Tally{}
}

// For returns the counts of one key.
func (l *Ledger) For(key string, purpose Purpose) Tally {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t := l.tallies[tallyKey{key, purpose}]; t != nil {
		return *t
	}
	return Tally{}
}

// Count returns how many requests arrived.
func (l *Ledger) Count(purpose Purpose) int { return l.Total(purpose).Count }

// CountFor returns how many requests with this key arrived.
func (l *Ledger) CountFor(key string, purpose Purpose) int { return l.For(key, purpose).Count }

// Live returns how many streams are under way.
func (l *Ledger) Live() int { return l.Total(PurposeAnswer).Live }

// MaxLiveFor returns how many streams of one key were ever under way at once.
func (l *Ledger) MaxLiveFor(key string) int { return l.For(key, PurposeAnswer).MaxLive }

// Strays returns how many requests went to a path that neither vendor has.
func (l *Ledger) Strays() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.strays
}

// Snapshot is the ledger at one moment, and what GET /ledger answers with.
type Snapshot struct {
	Answers Tally `json:"answers"`
	Titles  Tally `json:"titles"`
	Strays  int   `json:"strays"`
	// Keys is sorted by key and purpose.
	Keys []KeyTally `json:"keys"`
}

// KeyTally is the tally of one key and purpose.
type KeyTally struct {
	Key     string  `json:"key"`
	Purpose Purpose `json:"purpose"`
	Tally
}

// Snapshot returns the counts at one moment.
func (l *Ledger) Snapshot() Snapshot {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := Snapshot{
		Answers: *l.totals[PurposeAnswer],
		Titles:  *l.totals[PurposeTitle],
		Strays:  l.strays,
		Keys:    make([]KeyTally, 0, len(l.tallies)),
	}
	for key, t := range l.tallies {
		s.Keys = append(s.Keys, KeyTally{key.key, key.purpose, *t})
	}
	slices.SortFunc(s.Keys, func(a, b KeyTally) int {
		return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.Purpose, b.Purpose))
	})
	return s
}

// ServeHTTP answers with the Snapshot as JSON.
func (l *Ledger) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	// A reader that went away is nobody's error.
	_ = json.NewEncoder(w).Encode(l.Snapshot())
}

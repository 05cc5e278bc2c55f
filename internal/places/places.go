// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package places

import (
	"sync"
	"time"
)

// Key names a run.
type Key struct{ Namespace, Name string }

// Claim is what a run asks with.
type Claim struct {
	Key Key
	// UID tells a run from a later one of the same name.
	UID string
	// Provider is the UID of the one that is to be called, and Limit how many
	// attempts it allows at a time; 0 is no bound. The last claim's counts.
	Provider string
	Limit    int
	// Elsewhere is how many attempts others have under way at the provider. The last
	// claim's counts.
	Elsewhere int
	// Model is the one that is to be asked.
	Model string
	// Created gives a run its turn: the oldest comes first.
	Created time.Time
}

// Answer is what a claim comes to.
type Answer string

const (
	// Granted: the run has a place.
	Granted Answer = "Granted"
	// ManagerFull: all places are taken.
	ManagerFull Answer = "ManagerFull"
	// ProviderFull: all places of the provider are taken.
	ProviderFull Answer = "ProviderFull"
	// ProviderRefuses: the provider refused attempts at the model lately, and has as
	// many under way as it is known to take.
	ProviderRefuses Answer = "ProviderRefuses"
)

// Result is what an attempt tells of its provider. The zero value tells nothing.
type Result struct {
	// Accepted: the provider served it.
	Accepted bool
	// Refused: the provider refused it as there were too many. The run waits until
	// Until before its next one.
	Refused bool
	Until   time.Time
}

// Places are all places of a manager. Its methods may be called by any
// goroutine, and none blocks.
type Places struct {
	limit int
	wake  func(Key)

	mu         sync.Mutex
	held       map[Key]*seat
	waiting    map[Key]*waiter
	queues     map[queueKey]*queue // those that somebody waits in
	namespaces map[string]*namespace
	providers  map[string]*provider
	// served counts the places that were given, to tell who was served last.
	served uint64
}

// provider is one that attempts are made at.
type provider struct {
	limit, held, elsewhere int
	gates                  map[string]*gate // by model
}

// full says whether its own bound is reached.
func (to *provider) full() bool { return to.limit > 0 && to.held+to.elsewhere >= to.limit }

// seat is a place that is taken, or reserved for a run that was woken.
type seat struct {
	Claim
	gate  *gate
	begun bool
	// waited is how long its run waited for it.
	waited time.Duration
}

// namespace is what fairness looks at.
type namespace struct {
	held   int
	served uint64
	// users are the seats and queues that refer to this.
	users int
}

// New returns places, limit of them, or without a bound if it is 0. wake is
// called, never under a lock, for a run that waited and now has a place: it is
// to ask again, or to leave.
func New(limit int, wake func(Key)) *Places {
	return &Places{
		limit: limit, wake: wake,
		held: map[Key]*seat{}, waiting: map[Key]*waiter{}, queues: map[queueKey]*queue{},
		namespaces: map[string]*namespace{}, providers: map[string]*provider{},
	}
}

// Ask asks for a place. A run that gets none waits for its turn, and is woken.
// It may be asked again: a run that has a place keeps it, and one that waits
// keeps its turn. The second result says how long it waits already, or waited.
func (p *Places) Ask(c Claim) (Answer, time.Duration) {
	p.mu.Lock()
	now := time.Now()
	to := p.gate(c)
	to.provider.limit, to.provider.elsewhere = c.Limit, c.Elsewhere
	s := p.held[c.Key]
	if s != nil && (s.UID != c.UID || s.gate != to) {
		p.vacate(s)
	}
	if p.held[c.Key] == nil {
		p.enqueue(c, to, now)
	}
	woken := p.dispatch(now)
	answer, waited := Granted, time.Duration(0)
	if w := p.waiting[c.Key]; w != nil {
		answer, waited = why(to, now), now.Sub(w.since)
	} else if held := p.held[c.Key]; held != nil {
		waited = held.waited
	}
	p.alarms(to.provider, now)
	if s != nil {
		p.tidy(s.gate, now)
	}
	p.mu.Unlock()
	p.tell(woken, c.Key)
	return answer, waited
}

// Force takes a place whatever the bounds say, for an attempt that has to be
// made.
func (p *Places) Force(c Claim) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held[c.Key] != nil {
		return
	}
	now := time.Now()
	if w := p.waiting[c.Key]; w != nil {
		p.dequeue(w)
		defer p.tidy(w.gate, now)
	}
	to := p.gate(c)
	p.seat(c, to, now)
	p.alarms(to.provider, now)
}

// Begun tells that the provider accepted the attempt of the run with this UID: its
// first part is there.
func (p *Places) Begun(k Key, uid string) {
	p.mu.Lock()
	now := time.Now()
	var woken []Key
	if s := p.held[k]; s != nil && s.UID == uid && !s.begun {
		s.begun = true
		s.gate.begun++
		s.gate.accepted(now)
		woken = p.dispatch(now)
		p.alarms(s.gate.provider, now)
	}
	p.mu.Unlock()
	p.tell(woken, Key{})
}

// Ended tells what the attempt of the run with this UID came to, and gives its
// place back.
func (p *Places) Ended(k Key, uid string, r Result) {
	p.leave(k, uid, r)
}

// Leave gives back a place, or a turn, of which nothing came. It does nothing for
// a run that has neither.
func (p *Places) Leave(k Key) {
	p.leave(k, "", Result{})
}

// Yield gives back a place that a run cannot use just now, and leaves it its turn
// if it waits for one.
func (p *Places) Yield(k Key) {
	p.mu.Lock()
	_, waits := p.waiting[k]
	p.mu.Unlock()
	if !waits {
		p.Leave(k)
	}
}

// leave is of whatever run of that name if it is given no UID.
func (p *Places) leave(k Key, uid string, r Result) {
	p.mu.Lock()
	now := time.Now()
	s, w := p.held[k], p.waiting[k]
	var woken []Key
	switch {
	case s != nil && (uid == "" || uid == s.UID):
		if r.Accepted && !s.begun {
			s.gate.accepted(now)
		}
		p.vacate(s)
		if r.Refused {
			s.gate.refused(now, r.Until)
		}
		woken = p.dispatch(now)
		p.alarms(s.gate.provider, now)
		p.tidy(s.gate, now)
	case w != nil && uid == "":
		p.dequeue(w)
		p.tidy(w.gate, now)
	}
	p.mu.Unlock()
	p.tell(woken, Key{})
}

// dispatch gives every place that may be given, and returns who got one.
func (p *Places) dispatch(now time.Time) []Key {
	var woken []Key
	for p.limit == 0 || len(p.held) < p.limit {
		next := p.next(now)
		if next == nil {
			break
		}
		w := next.oldest()
		p.dequeue(w)
		p.seat(w.Claim, w.gate, now)
		p.held[w.Key].waited = now.Sub(w.since)
		p.alarms(w.gate.provider, now)
		woken = append(woken, w.Key)
	}
	return woken
}

// next returns the queue whose turn it is; nil if nobody who waits may have a
// place. It looks at every queue: there is one a model, and a look takes
// nanoseconds.
func (p *Places) next(now time.Time) *queue {
	var best *queue
	for _, q := range p.queues {
		if q.gate.room(now) && (best == nil || q.before(best)) {
			best = q
		}
	}
	return best
}

// why says what a run waits for.
func why(g *gate, now time.Time) Answer {
	switch {
	case g.provider.full():
		return ProviderFull
	case !g.room(now):
		return ProviderRefuses
	default:
		return ManagerFull
	}
}

func (p *Places) seat(c Claim, g *gate, now time.Time) {
	p.held[c.Key] = &seat{Claim: c, gate: g}
	n := p.namespace(c.Key.Namespace)
	n.users++
	n.held++
	p.served++
	n.served = p.served
	g.held++
	g.provider.held++
	g.seatedAt = now
}

func (p *Places) vacate(s *seat) {
	delete(p.held, s.Key)
	p.namespaces[s.Key.Namespace].held--
	p.release(s.Key.Namespace)
	s.gate.held--
	s.gate.provider.held--
	if s.begun {
		s.gate.begun--
	}
}

// namespace returns one, which is made if it is not there. It counts as served
// just now: one that comes again and again with a run at a time would have every
// turn otherwise.
func (p *Places) namespace(name string) *namespace {
	n := p.namespaces[name]
	if n == nil {
		n = &namespace{served: p.served}
		p.namespaces[name] = n
	}
	return n
}

// release forgets a namespace that nothing refers to.
func (p *Places) release(name string) {
	n := p.namespaces[name]
	if n.users--; n.users == 0 {
		delete(p.namespaces, name)
	}
}

func (p *Places) tell(woken []Key, asks Key) {
	for _, k := range woken {
		if k != asks {
			p.wake(k)
		}
	}
}

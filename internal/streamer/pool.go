// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"context"
	"errors"
	"sync"

	"chatrun.dev/operator/internal/provider"
)

// Why Pool.Start refuses an attempt.
var (
	// ErrNotAccepting: Shutdown was called.
	ErrNotAccepting = errors.New("the pool is shutting down")
	// ErrNameHeld: an entry of another UID holds the name; Drop it first.
	ErrNameHeld = errors.New("another run holds this name")
	// ErrRunning: an attempt of this run is under way.
	ErrRunning = errors.New("an attempt of this run is under way")
	// ErrFenced: Fence was called since the attempt's pass was taken.
	ErrFenced = errors.New("the attempt was allowed before all were ended")
	// ErrStaleAttempt: the number is not above the last attempt's.
	ErrStaleAttempt = errors.New("an attempt of this or a later number was made already")
)

// Pool makes attempts. Its workers live under a context of their own, which
// Shutdown alone ends. Its methods may be called by any goroutine, and none
// but Shutdown blocks.
type Pool struct {
	caller provider.Caller
	hub    *Hub
	nudge  func(Run)

	ctx    context.Context
	cancel context.CancelCauseFunc
	work   sync.WaitGroup

	mu sync.Mutex
	// refusing says that nothing new is to be counted, closed that nothing starts.
	refusing, closed bool
	fences           int
	entries          map[string]*entry // by UID
	uids             map[name]string
}

// entry is what the pool knows of one run. It holds nothing of an attempt but
// its number and outcome, so that thousands are cheap. Pool.mu guards it.
type entry struct {
	run     Run
	attempt int32
	// cancel ends the attempt; nil while none runs.
	cancel  context.CancelCauseFunc
	outcome *Outcome
	settled bool
	title   title
}

// title is the state of a run's one request for a title.
type title struct {
	asked bool
	// cancel ends the request; nil while none runs.
	cancel context.CancelCauseFunc
	text   string
}

// Snapshot says what the pool knows of a run.
type Snapshot struct {
	UID string
	// Attempt is the last attempt started here; 0 if none.
	Attempt int32
	Running bool
	// Outcome is that of Attempt; nil while it runs, and after Settle.
	Outcome *Outcome
	// Settled says that the outcome of Attempt was there, and was settled.
	Settled bool
	// Title is a generated title that is not settled yet.
	Title string
	// TitleRunning says that a title is being asked for.
	TitleRunning bool
}

// NewPool returns a pool that calls models by caller and streams to hub.
// It calls nudge, never under a lock, when an outcome is there and when the
// request for a title ended, however it did.
func NewPool(caller provider.Caller, hub *Hub, nudge func(Run)) *Pool {
	ctx, cancel := context.WithCancelCause(context.Background())
	return &Pool{
		caller: caller, hub: hub, nudge: nudge,
		ctx: ctx, cancel: cancel,
		entries: map[string]*entry{}, uids: map[name]string{},
	}
}

// Look says what is known of the run that holds this name, and false if
// nothing is.
func (p *Pool) Look(namespace, runName string) (Snapshot, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.entries[p.uids[name{namespace, runName}]]
	if e == nil {
		return Snapshot{}, false
	}
	return Snapshot{
		UID: e.run.UID, Attempt: e.attempt, Running: e.cancel != nil,
		Outcome: e.outcome, Settled: e.settled,
		Title: e.title.text, TitleRunning: e.title.cancel != nil,
	}, true
}

// Accepting is false once Refuse or Shutdown was called.
func (p *Pool) Accepting() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.refusing
}

// Closed is true once Shutdown was called: nothing starts any more.
func (p *Pool) Closed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// Pass returns what an attempt needs to be started: it is void after Fence.
func (p *Pool) Pass() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fences
}

// Refuse stops accepting attempts, and lets go on those that are under way or are
// counted already.
func (p *Pool) Refuse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refusing = true
}

// Fence cancels all attempts with ErrOwnershipLost, and all requests for titles.
// What was decided before it starts nothing after it. It does not block.
func (p *Pool) Fence() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fences++
	for _, e := range p.entries {
		e.stop(ErrOwnershipLost)
	}
}

// Attempts returns how many are under way.
func (p *Pool) Attempts() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, e := range p.entries {
		if e.cancel != nil {
			n++
		}
	}
	return n
}

// Runs returns the runs of which something is known, in no order.
func (p *Pool) Runs() []Run {
	p.mu.Lock()
	defer p.mu.Unlock()
	runs := make([]Run, 0, len(p.entries))
	for _, e := range p.entries {
		runs = append(runs, e.run)
	}
	return runs
}

// Start makes an attempt in a goroutine of its own. It returns ErrNotAccepting,
// ErrFenced, ErrNameHeld, ErrRunning or ErrStaleAttempt, and has then changed
// nothing.
// An outcome of an earlier attempt that is still there is forgotten.
func (p *Pool) Start(a Attempt) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return ErrNotAccepting
	}
	if a.Pass != p.fences {
		return ErrFenced
	}
	if uid, held := p.uids[a.Run.key()]; held && uid != a.Run.UID {
		return ErrNameHeld
	}
	e := p.entries[a.Run.UID]
	switch {
	case e == nil:
		e = &entry{run: a.Run}
		p.entries[a.Run.UID], p.uids[a.Run.key()] = e, a.Run.UID
	case e.cancel != nil:
		return ErrRunning
	case a.Number <= e.attempt:
		return ErrStaleAttempt
	}
	ctx, cancel := context.WithCancelCause(p.ctx)
	e.attempt, e.cancel, e.outcome, e.settled = a.Number, cancel, nil, false
	p.work.Go(func() {
		defer cancel(nil)
		outcome := p.attempt(ctx, cancel, e, &a)
		if a.Ended != nil {
			a.Ended(outcome)
		}
		if p.conclude(e, outcome) {
			p.nudge(a.Run)
		}
	})
	return nil
}

// conclude keeps an outcome, and reports whether anyone still asks for it.
func (p *Pool) conclude(e *entry, outcome *Outcome) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	e.cancel, e.outcome = nil, outcome
	return p.entries[e.run.UID] == e
}

// Stop cancels the attempt under way, and a request for a title. The first
// cause wins; the outcome arrives by nudge. It may be called again, and for a
// run of which nothing is known.
func (p *Pool) Stop(uid string, cause error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e := p.entries[uid]; e != nil {
		e.stop(cause)
	}
}

// stop cancels whatever runs. Cancelling calls nobody: what waits for these
// contexts runs in goroutines of its own.
func (e *entry) stop(cause error) {
	if e.cancel != nil {
		e.cancel(cause)
	}
	if e.title.cancel != nil {
		e.title.cancel(cause)
	}
}

// Settle says that the outcome was written down: its text is forgotten, the
// number of the attempt stays. It does nothing while an attempt runs.
func (p *Pool) Settle(uid string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e := p.entries[uid]; e != nil && e.outcome != nil {
		e.outcome, e.settled = nil, true
	}
}

// SettleTitle says that the title was written down, or is not wanted any more.
func (p *Pool) SettleTitle(uid string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e := p.entries[uid]; e != nil {
		e.title.text = ""
	}
}

// Forget drops all knowledge of a run that is finished, and was seen finished
// by a reader of its status. It does nothing while an attempt or a request for
// a title runs, or a title is not settled: call it again then.
func (p *Pool) Forget(uid string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e := p.entries[uid]; e != nil && e.cancel == nil && e.title.cancel == nil && e.title.text == "" {
		p.remove(e)
	}
}

// Drop cancels everything of a run that is gone with ErrGone, forgets it at
// once, and cuts its readers. The name is free again when it returns.
func (p *Pool) Drop(uid string) {
	p.mu.Lock()
	if e := p.entries[uid]; e != nil {
		e.stop(ErrGone)
		p.remove(e)
	}
	p.mu.Unlock()
	p.hub.Drop(uid)
}

func (p *Pool) remove(e *entry) {
	delete(p.entries, e.run.UID)
	if p.uids[e.run.key()] == e.run.UID {
		delete(p.uids, e.run.key())
	}
}

// Shutdown stops accepting attempts, cancels all with ErrShutdown and waits for
// every goroutine, or until ctx ends, whose cause it then returns. Outcomes
// stay, to be looked at. It may be called again.
func (p *Pool) Shutdown(ctx context.Context) error {
	p.mu.Lock()
	p.refusing, p.closed = true, true
	p.mu.Unlock()
	p.cancel(ErrShutdown)

	idle := make(chan struct{})
	go func() {
		p.work.Wait()
		close(idle)
	}()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

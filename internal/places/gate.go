// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package places

import "time"

const (
	// gateMemory is how long a refusal is remembered. Vendors count by the minute;
	// a provider that took everything for ten of them is asked as one that never
	// refused.
	gateMemory = 10 * time.Minute
	// maxPatience bounds how many clean windows come before the next attempt above
	// what a provider takes. More would save refusals of which there are few, and see
	// later that it takes more by now.
	maxPatience = 8
	// worthProbing is how many times as many as it lets through have to wait for a
	// gate that was right before, until another attempt above it is worth it.
	worthProbing = 4
)

// provider is what is known of one: what it has under way, and its gate.
type provider struct {
	limit int
	// held counts its places, begun those whose attempt was accepted.
	held, begun int
	// waiting counts the runs that wait for it.
	waiting int

	// gate is how many attempts it is let have under way after a refusal; 0 before
	// any, and once it is forgotten.
	gate int
	// step is by how much the gate rises next, which doubles while nothing is
	// refused. clean counts the attempts accepted since it rose or fell, and it
	// rises after patience times as many as it lets through.
	step, clean, patience int
	// raised says that the gate rose since the last refusal.
	raised    bool
	refusedAt time.Time
	// quiet is when the next probe may be made while nothing is accepted: when the
	// run that was refused last may go on, as its status promises.
	quiet time.Time
	timer *time.Timer
}

func (p *Places) provider(uid string) *provider {
	to := p.providers[uid]
	if to == nil {
		to = &provider{}
		p.providers[uid] = to
	}
	return to
}

// full says whether its own bound is reached.
func (to *provider) full() bool { return to.limit > 0 && to.held >= to.limit }

// room says whether another attempt may be made.
func (to *provider) room(now time.Time) bool {
	if to.full() {
		return false
	}
	if to.gate == 0 || now.Sub(to.refusedAt) >= gateMemory {
		return true
	}
	return to.held < to.gate && (to.begun > 0 || !now.Before(to.quiet))
}

// refused closes the gate to what is left under way: those were accepted, or
// are about to be refused as well, and lower it further then. It is told after
// the refused one left.
func (to *provider) refused(now, until time.Time) {
	if now.Sub(to.refusedAt) >= gateMemory {
		to.gate, to.patience = 0, 1
	}
	if to.raised {
		// It takes no more than before: the next look is further off.
		to.patience = min(2*to.patience, maxPatience)
	}
	if left := max(to.held, 1); to.gate == 0 || left < to.gate {
		to.gate = left
	}
	to.step, to.clean, to.raised, to.refusedAt = 1, 0, false, now
	if to.begun == 0 && until.After(to.quiet) {
		to.quiet = until
	}
}

// accepted opens the gate a little, once all that it lets through were accepted
// without a refusal.
func (to *provider) accepted() {
	to.quiet = time.Time{}
	if to.gate == 0 {
		return
	}
	// A refusal costs its run a wait, which is not worth it for a queue that will
	// be gone by then.
	if to.clean++; to.clean < to.gate*to.patience || to.waiting < to.gate*min(to.patience, worthProbing) {
		return
	}
	if to.raised {
		// What it was raised to holds, so more may.
		to.step, to.patience = 2*to.step, 1
	}
	to.gate += to.step
	to.clean, to.raised = 0, true
}

// alarm sets the timer for the next probe, if runs wait for it and nothing that
// is under way would bring it about.
func (to *provider) alarm(now time.Time, p *Places) {
	if to.gate == 0 || !now.Before(to.quiet) || to.begun > 0 {
		return
	}
	if to.timer != nil {
		to.timer.Stop()
	}
	to.timer = time.AfterFunc(to.quiet.Sub(now), func() {
		p.mu.Lock()
		woken := p.dispatch(time.Now())
		p.mu.Unlock()
		p.tell(woken, Key{})
	})
}

// tidy forgets a provider of which nothing is left to know, now or once its
// last refusal is long enough ago.
func (p *Places) tidy(uid string, now time.Time) {
	to := p.providers[uid]
	if to == nil || to.held > 0 || to.waiting > 0 {
		return
	}
	if to.timer != nil {
		to.timer.Stop()
	}
	left := gateMemory - now.Sub(to.refusedAt)
	if to.gate == 0 || left <= 0 {
		delete(p.providers, uid)
		return
	}
	to.timer = time.AfterFunc(left, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.tidy(uid, time.Now())
	})
}

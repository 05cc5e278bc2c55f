// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package places

import "time"

const (
	// gateMemory is how long a refusal is remembered. Vendors count by the minute;
	// a provider that took everything for ten of them is asked as one that never
	// refused.
	gateMemory = 10 * time.Minute
	// maxPatience bounds how many windows come before the next attempt above
	// what a provider takes. More would save refusals of which there are few, and see
	// later that it takes more by now.
	maxPatience = 8
	// probeEvery is how long runs wait before a gate that nobody comes to rises, times
	// the patience.
	probeEvery = 5 * time.Second
	// worthProbing is how many times as many as it lets through have to wait for a
	// gate that was right before, until another attempt above it is worth it.
	worthProbing = 4
	// mostly is the share of refusals from which on too many attempts are under way,
	// and lately how much the last one counts for it: without accepted ones between
	// them the eleventh refusal is the first that reaches it.
	mostly = 0.5
	lately = 1. / 16
	// beyondChance is how many refusals in a row tell that a gate that rose is too
	// wide. A provider that is full refuses one attempt after another, while one that
	// refuses one in five refuses three in a row once in a hundred times.
	beyondChance = 3
	// maxQuiet bounds the time between two probes of a provider that takes nothing.
	// The wait of a run that was refused often is longer than others should wait.
	maxQuiet = 15 * time.Second
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
	// step is by how much the gate rises next, which doubles while that holds. clean
	// counts the attempts accepted since it rose or fell, and it rises after patience
	// times as many as it lets through.
	step, clean, patience int
	// raised says that the gate rose since it last fell, from before, and peak how
	// many accepted attempts were under way at a time since it last changed.
	raised       bool
	before, peak int
	// share is that of refusals among what attempts came to lately, from 0 to 1, and
	// streak how many there were in a row since the gate rose.
	share     float64
	streak    int
	refusedAt time.Time
	// changedAt is when the gate rose or fell last.
	changedAt time.Time
	// quiet is when the next probe may be made while nothing is accepted: when the
	// run that was refused last may go on, as its status promises, or maxQuiet later.
	quiet time.Time
	// timer rings at alarmAt; the zero time is never.
	timer   *time.Timer
	alarmAt time.Time
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

// refused is told after the refused attempt left. While most attempts are
// refused it closes the gate to what is left under way: those were accepted, or
// are about to be refused as well, and lower it further then. A gate that rose
// falls back if the provider refuses one attempt after another since, and took no
// more than before. Any other refusal changes nothing: a provider that refuses
// here and there, as one does that others keep busy, takes no more for being
// asked less.
func (to *provider) refused(now, until time.Time) {
	if now.Sub(to.refusedAt) >= gateMemory {
		to.gate, to.patience = 0, 1
	}
	to.refusedAt = now
	to.share += (1 - to.share) * lately
	to.streak++
	switch left := max(to.held, 1); {
	case to.share >= mostly && (to.gate == 0 || left < to.gate):
		to.set(left, now)
	case to.raised && to.peak <= to.before && to.streak >= beyondChance:
		to.set(to.before, now)
		// It takes no more than before: the next look is further off.
		to.patience = min(2*to.patience, maxPatience)
	}
	if to.begun > 0 {
		return
	}
	if last := now.Add(maxQuiet); until.After(last) {
		until = last
	}
	if until.After(to.quiet) {
		to.quiet = until
	}
}

// set lowers the gate.
func (to *provider) set(gate int, now time.Time) {
	to.gate, to.changedAt = gate, now
	to.peak, to.step, to.clean, to.raised = 0, 1, 0, false
}

// accepted opens the gate a little, once as many were accepted as it lets
// through.
func (to *provider) accepted(now time.Time) {
	to.quiet = time.Time{}
	to.share -= to.share * lately
	to.streak = 0
	to.peak = max(to.peak, to.begun)
	if to.gate == 0 {
		return
	}
	// A refusal costs its run a wait, which is not worth it for a queue that will
	// be gone by then.
	enough := to.patience == 1 || to.waiting >= to.gate*min(to.patience, worthProbing)
	if to.clean++; to.clean >= to.gate*to.patience && to.waiting > 0 && enough {
		to.rise(now)
	}
}

// rise opens the gate a little more than the last time, if that held.
func (to *provider) rise(now time.Time) {
	if to.raised && to.peak > to.before {
		// It takes more than before, so it may take more still.
		to.step, to.patience = 2*to.step, 1
	}
	to.before = to.gate
	to.gate += to.step
	to.peak, to.clean, to.streak, to.raised, to.changedAt = to.begun, 0, 0, true, now
}

// due is when something has to happen for runs that wait although nothing that
// is under way ends: the next probe of a provider that takes nothing, or the next
// rise of the gate, as long answers may come to no window for minutes. The zero
// time is never.
func (to *provider) due(now time.Time) time.Time {
	switch {
	case to.gate == 0 || to.waiting == 0 || to.full():
		return time.Time{}
	case to.begun > 0 && to.held >= to.gate:
		return to.changedAt.Add(probeEvery * time.Duration(to.patience))
	case to.begun == 0 && now.Before(to.quiet):
		return to.quiet
	}
	return time.Time{}
}

// alarm sets the timer for what is due.
func (to *provider) alarm(now time.Time, p *Places) {
	at := to.due(now)
	if at.Equal(to.alarmAt) {
		return
	}
	if to.timer != nil {
		to.timer.Stop()
	}
	if to.alarmAt = at; at.IsZero() {
		return
	}
	to.timer = time.AfterFunc(at.Sub(now), func() { p.ring(to, at) })
}

// ring does what is due.
func (p *Places) ring(to *provider, at time.Time) {
	p.mu.Lock()
	var woken []Key
	if to.alarmAt.Equal(at) {
		now := time.Now()
		to.alarmAt = time.Time{}
		if due := to.due(now); to.begun > 0 && !due.IsZero() && !due.After(now) {
			to.rise(now)
		}
		woken = p.dispatch(now)
		to.alarm(now, p)
	}
	p.mu.Unlock()
	p.tell(woken, Key{})
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
	to.alarmAt = time.Time{}
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

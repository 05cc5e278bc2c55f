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
	// maxModels bounds the gates of a provider, as whoever writes a run chooses the
	// name of its model. Further ones share one.
	maxModels = 64
	// maxQuiet bounds the time between two probes of a provider that takes nothing.
	// The wait of a run that was refused often is longer than others should wait.
	maxQuiet = 15 * time.Second
)

// gateKey names what attempts are refused for: vendors count by the model.
type gateKey struct{ provider, model string }

// gate is what is known of a model of a provider: what it has under way, and how
// much it takes.
type gate struct {
	key      gateKey
	provider *provider
	// held counts its places, begun those whose attempt was accepted.
	held, begun int
	// waiting counts the runs that wait for it.
	waiting int

	// width is how many attempts are let under way after refusals; 0 before any, and
	// once they are forgotten.
	width int
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
	// changedAt is when the gate rose or fell last, seatedAt when a place was given.
	changedAt, seatedAt time.Time
	// quiet is when the next probe may be made while nothing is accepted: when the
	// run that was refused last may go on, as its status promises, or maxQuiet later.
	quiet time.Time
	// timer rings at alarmAt; the zero time is never.
	timer   *time.Timer
	alarmAt time.Time
}

// gate returns that of a model, which is made if it is not there.
func (p *Places) gate(c Claim) *gate {
	to := p.providers[c.Provider]
	if to == nil {
		to = &provider{gates: map[string]*gate{}}
		p.providers[c.Provider] = to
	}
	g := to.gates[c.Model]
	if g == nil && len(to.gates) >= maxModels {
		c.Model = "" // no model's name
		g = to.gates[c.Model]
	}
	if g == nil {
		g = &gate{key: gateKey{c.Provider, c.Model}, provider: to}
		to.gates[c.Model] = g
	}
	return g
}

// room says whether another attempt may be made.
func (g *gate) room(now time.Time) bool {
	switch {
	case g.provider.full():
		return false
	case g.width == 0 || g.forgotten(now):
		return true
	}
	return g.held < g.width && (g.begun > 0 || !now.Before(g.quiet))
}

// forgotten says whether the last refusal is too long ago to matter, or there was
// none.
func (g *gate) forgotten(now time.Time) bool { return now.Sub(g.refusedAt) >= gateMemory }

// refused is told after the refused attempt left. While most attempts are
// refused it closes the gate to what is left under way: those were accepted, or
// are about to be refused as well, and lower it further then. A gate that rose
// falls back if the provider refuses one attempt after another since, and took no
// more than before. Any other refusal changes nothing: a provider that refuses
// here and there, as one does that others keep busy, takes no more for being
// asked less.
func (g *gate) refused(now, until time.Time) {
	if g.forgotten(now) {
		g.set(0, now)
		g.share, g.streak, g.patience = 0, 0, 1
	}
	g.refusedAt = now
	g.share += (1 - g.share) * lately
	g.streak++
	switch left := max(g.held, 1); {
	case g.share >= mostly && (g.width == 0 || left < g.width):
		g.set(left, now)
	case g.raised && g.peak <= g.before && g.streak >= beyondChance:
		g.set(g.before, now)
		// It takes no more than before: the next look is further off.
		g.patience = min(2*g.patience, maxPatience)
	}
	if g.begun > 0 {
		return
	}
	if last := now.Add(maxQuiet); until.After(last) {
		until = last
	}
	if until.After(g.quiet) {
		g.quiet = until
	}
}

// set makes the gate as wide as that, and forgets how it came to be as it was.
func (g *gate) set(width int, now time.Time) {
	g.width, g.changedAt = width, now
	g.peak, g.step, g.clean, g.raised = 0, 1, 0, false
}

// accepted opens the gate a little, once as many were accepted as it lets
// through.
func (g *gate) accepted(now time.Time) {
	g.quiet = time.Time{}
	g.share -= g.share * lately
	g.streak = 0
	g.peak = max(g.peak, g.begun)
	if g.width == 0 {
		return
	}
	// A refusal costs its run a wait, which is not worth it for a queue that will
	// be gone by then.
	enough := g.patience == 1 || g.waiting >= g.width*min(g.patience, worthProbing)
	if g.clean++; g.clean >= g.width*g.patience && g.waiting > 0 && enough {
		g.rise(now)
	}
}

// rise opens the gate a little more than the last time, if that held.
func (g *gate) rise(now time.Time) {
	if g.raised && g.peak > g.before {
		// It takes more than before, so it may take more still.
		g.step, g.patience = 2*g.step, 1
	}
	g.before = g.width
	g.width += g.step
	g.peak, g.clean, g.streak, g.raised, g.changedAt = g.begun, 0, 0, true, now
}

// due is when something has to happen for runs that wait although nothing that
// is under way ends: the next probe of a provider that takes nothing, or the next
// rise of the gate, as long answers may come to no window for minutes, and a probe
// may get no answer at all. The zero time is never.
func (g *gate) due(now time.Time) time.Time {
	switch {
	case g.width == 0 || g.waiting == 0 || g.provider.full():
		return time.Time{}
	case g.held >= g.width && g.begun > 0:
		return g.changedAt.Add(probeEvery * time.Duration(g.patience))
	case g.held >= g.width:
		last := g.seatedAt
		if g.changedAt.After(last) {
			last = g.changedAt
		}
		return last.Add(maxQuiet * time.Duration(g.patience))
	case g.begun == 0 && now.Before(g.quiet):
		return g.quiet
	}
	return time.Time{}
}

// alarms sets the timers of a provider's gates. A place that another model takes or
// gives back may change what is due.
func (p *Places) alarms(to *provider, now time.Time) {
	for _, g := range to.gates {
		p.alarm(g, now)
	}
}

// alarm sets the timer for what is due.
func (p *Places) alarm(g *gate, now time.Time) {
	at := g.due(now)
	if at.Equal(g.alarmAt) {
		return
	}
	if g.timer != nil {
		g.timer.Stop()
	}
	if g.alarmAt = at; at.IsZero() {
		return
	}
	g.timer = time.AfterFunc(at.Sub(now), func() { p.ring(g, at) })
}

// ring does what is due.
func (p *Places) ring(g *gate, at time.Time) {
	p.mu.Lock()
	var woken []Key
	if g.alarmAt.Equal(at) {
		now := time.Now()
		g.alarmAt = time.Time{}
		if due := g.due(now); g.held >= g.width && !due.IsZero() && !due.After(now) {
			g.rise(now)
		}
		woken = p.dispatch(now)
		p.alarms(g.provider, now)
	}
	p.mu.Unlock()
	p.tell(woken, Key{})
}

// tidy forgets a gate of which nothing is left to know, now or once its last
// refusal is long enough ago.
func (p *Places) tidy(g *gate, now time.Time) {
	if g.held > 0 || g.waiting > 0 || g.provider.gates[g.key.model] != g {
		return
	}
	if g.timer != nil {
		g.timer.Stop()
	}
	g.alarmAt = time.Time{}
	if g.forgotten(now) {
		delete(g.provider.gates, g.key.model)
		if len(g.provider.gates) == 0 {
			delete(p.providers, g.key.provider)
		}
		return
	}
	g.timer = time.AfterFunc(gateMemory-now.Sub(g.refusedAt), func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.tidy(g, time.Now())
	})
}

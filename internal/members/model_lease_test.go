// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package members

// steps collects what a world may become.
type steps struct {
	rules
	nodes int
	// next are the worlds, and wrong what a step did that no step may do.
	next []step
}

type step struct {
	event event
	node  int
	world world
	wrong string
}

func (s *steps) add(e event, i int, w *world) {
	s.next = append(s.next, step{event: e, node: i, world: *w})
}

// event names a step, for the story of a violation.
type event uint8

const (
	tick event = iota
	stop
	cont
	crash
	restart
	restartAnew
	remove
	renewalStands
	renewalAnswered
	renewalLost
	formerSeen
	fence
	watchTells
	confirm
	drain
	drainUntold
	graceEnds
	leave
	giveBack
	exit
	look1 // a look at the run that takes a reconcile further
	writeOff
	askOwner
	countStands
	countUnknown
	ghostStands
	ghostVanishes
	countAnswered
	startAttempt
	startRefused
	attemptEnds
	answerStands
	outcomeStands
	stopOwn
	loseOwn
)

var events = [...]string{
	tick: "time passes", stop: "is stopped", cont: "goes on", crash: "dies", restart: "comes back as the same process",
	restartAnew: "comes back as another process", remove: "somebody deletes the Lease of", renewalStands: "renewal stands",
	renewalAnswered: "renewal is answered", renewalLost: "gets no answer to its renewal, which stands", formerSeen: "looks at the Lease another process of its name holds", fence: "is fenced by its timer",
	watchTells: "is told by its watch of", confirm: "reads the Lease of", drain: "drains", drainUntold: "drains, and cannot say so",
	graceEnds: "ends what streams, as the grace is over", leave: "leaves", giveBack: "gives its Lease back", exit: "exits",
	look1: "looks at the run", writeOff: "sends that the attempt is lost", askOwner: "asks for the owner's Lease",
	countStands: "write stands", countUnknown: "gets no answer to its write",
	ghostStands: "late write stands", ghostVanishes: "late write never arrives", countAnswered: "write is answered, looks whether it is held",
	startAttempt: "starts the attempt", startRefused: "may not start the attempt", attemptEnds: "attempt fails",
	answerStands: "attempt succeeds", outcomeStands: "records its outcome", stopOwn: "stops its attempt, the run being another's", loseOwn: "writes off its own attempt",
}

// fault says that the world does this, not the protocol.
func (e event) fault() bool {
	switch e {
	case stop, crash, restart, restartAnew, remove, renewalLost, drain, drainUntold, countUnknown, ghostVanishes, attemptEnds:
		return true
	}
	return false
}

// of adds all that may happen next.
func (s *steps) of(w *world) {
	s.next = s.next[:0]
	s.time(w)
	for i := range s.nodes {
		n := &w.nodes[i]
		s.counts(w, i)
		switch n.life {
		case dead:
			s.comeBack(w, i)
		case stopped:
			v := *w
			v.nodes[i].life = running
			s.add(cont, i, &v)
		case running:
			s.faults(w, i)
			s.tenures(w, i)
			s.looks(w, i)
			s.leaving(w, i)
			s.reconcile(w, i)
		}
	}
}

// time passes. A process that runs gets to its timer within a tick, and one that is
// stopped does not.
func (s *steps) time(w *world) {
	v := *w
	for i := range s.nodes {
		n := &v.nodes[i]
		if n.life == running && n.overdue() {
			return
		}
		n.left -= min(n.left, 1)
		if n.renewal != idle {
			n.began = min(n.began+1, s.held) // it is worth nothing then
		}
		s.grow(&n.former)
		for j := range n.seen {
			s.grow(&n.seen[j])
		}
	}
	s.add(tick, 0, &v)
}

// grow makes a glimpse older. How old one is that is the past does not matter to a
// read, which finds something else.
func (r *rules) grow(g *glimpse) {
	if g.known && g.held && (g.current || !r.confirmed) {
		g.age = min(g.age+1, r.lease)
	}
}

// faults are what befalls a process that runs, and its Lease.
func (s *steps) faults(w *world, i int) {
	if w.left.stops > 0 {
		v := *w
		v.left.stops--
		v.nodes[i].life = stopped
		s.add(stop, i, &v)
	}
	if w.left.crashes > 0 {
		v := *w
		v.left.crashes--
		v.nodes[i].die()
		s.add(crash, i, &v)
	}
	if w.left.deletions > 0 && w.lease[i].exists {
		v := *w
		v.left.deletions--
		v.wrote(i, server{})
		s.add(remove, i, &v)
	}
}

// die ends a process. What it sent may still arrive.
func (n *node) die() {
	*n = node{ident: n.ident, ghost: n.ghost || n.work == sent && !n.takes && n.fresh}
}

// comeBack starts a process of the same name. It lists the Leases before it does
// anything.
func (s *steps) comeBack(w *world, i int) {
	for _, e := range []event{restart, restartAnew} {
		v := *w
		n := &v.nodes[i]
		ident := n.ident
		if e == restartAnew {
			ident = 3 - ident
		}
		*n = node{life: running, ident: ident, fenced: true, ghost: n.ghost}
		for j := range s.nodes {
			if j != i {
				s.see(&v, i, j)
			}
		}
		s.add(e, i, &v)
	}
}

// wrote changes a Lease: what anybody saw of it is the past.
func (w *world) wrote(i int, l server) {
	w.lease[i] = l
	for j := range w.nodes {
		w.nodes[j].seen[i].current = false
	}
	w.nodes[i].former = glimpse{}
}

// tenures are what a process does to keep its own Lease. A renewal stands in the
// moment in which it is sent: one that stands later gives the same, or less, to the
// replica, and more to those that wait for it to lapse.
func (s *steps) tenures(w *world, i int) {
	n := &w.nodes[i]
	if n.overdue() {
		v := *w
		v.nodes[i].fence()
		s.add(fence, i, &v)
	}
	lease := w.lease[i]
	foreign := lease.exists && lease.holder != 0 && lease.holder != n.ident
	switch {
	case n.renewal == stood:
		v := *w
		v.nodes[i].renewed(s.rules)
		for number, by := range v.counted {
			v.inTime[number] = v.inTime[number] || by == uint8(i+1) && v.nodes[i].held()
		}
		s.add(renewalAnswered, i, &v)
		if v := *w; v.lost() {
			v.nodes[i].renewal, v.nodes[i].began = idle, 0
			s.add(renewalLost, i, &v)
		}
	case n.leaving || n.left == s.held:
		// It has just renewed, or does not any more.
	case foreign && !n.former.current:
		v := *w
		v.nodes[i].former = glimpse{known: true, current: true, held: true}
		s.add(formerSeen, i, &v)
	case !foreign || n.former.age >= s.lease:
		v := *w
		v.wrote(i, server{exists: true, holder: n.ident, draining: n.stopping})
		v.nodes[i].renewal = stood
		s.add(renewalStands, i, &v)
	}
}

// lost says whether one more answer may be lost.
func (w *world) lost() bool {
	if w.left.losses == 0 {
		return false
	}
	w.left.losses--
	return true
}

// renewed is Members.renewed.
func (n *node) renewed(r rules) {
	if n.overdue() && r.lateFences {
		n.fence()
	}
	if !r.early {
		n.began = 0
	}
	if !n.leaving {
		next := n.tenure().renewed(epoch.Add(-ticks(n.began)), ticks(r.held))
		n.fenced, n.left = next.fenced, 0
		if left := next.until.Sub(epoch); left > 0 {
			n.left = uint8(left / ticks(1))
		}
	}
	n.renewal, n.began = idle, 0
}

// fence is Pool.Fence: it ends what is under way, and voids what was decided.
func (n *node) fence() {
	n.fenced, n.pass, n.owedPass = true, false, false
	if n.live {
		n.live, n.ended = false, true
	}
}

// looks are what a process gets to know of the others.
func (s *steps) looks(w *world, i int) {
	n := &w.nodes[i]
	for j := range s.nodes {
		g, lease := n.seen[j], w.lease[j]
		if j == i {
			continue
		}
		if !g.current || g.draining != lease.draining {
			v := *w
			if s.see(&v, i, j); !s.patient && !lease.exists {
				v.nodes[i].seen[j] = glimpse{}
			}
			if v.nodes[i].seen[j] != g {
				s.add(watchTells, j, &v)
			}
		}
		if before := s.sighting(g); g.known && before.state() != Gone && !epoch.Before(before.due()) {
			if !s.confirmed {
				v := *w
				v.nodes[i].seen[j].lapsed = true
				s.add(confirm, j, &v)
				continue
			}
			for _, v := range s.read(w, i, j) {
				s.add(confirm, j, &v)
			}
		}
	}
}

// see is Members.saw, and Members.missed where there is no Lease. A watch tells of
// a state late rather than early, and of a former one as if it had told in time.
func (r *rules) see(w *world, i, j int) {
	g := &w.nodes[i].seen[j]
	before := r.sighting(*g)
	if lease := r.object(w.lease[j]); lease != nil {
		now := look(lease, epoch)
		if g.known {
			now = now.after(before)
		}
		*g = r.glimpsed(now, true)
	} else if before.state() == Gone {
		*g = glimpse{}
	}
}

// read is Members.find, and what becomes known by it. A Lease that is put back names
// the holder that was seen last, which may be the present one.
func (r *rules) read(w *world, i, j int) []world {
	if w.lease[j].exists {
		v := *w
		g := &v.nodes[i].seen[j]
		*g = r.glimpsed(r.sighting(*g).read(r.object(w.lease[j]), epoch), true)
		return []world{v}
	}
	if !r.patient {
		v := *w
		v.nodes[i].seen[j] = glimpse{}
		return []world{v}
	}
	var all []world
	for _, holder := range []uint8{w.nodes[j].ident, nobody} {
		v := *w
		v.wrote(j, server{exists: true, draining: true, holder: holder})
		all = append(all, r.read(&v, i, j)...)
	}
	return all
}

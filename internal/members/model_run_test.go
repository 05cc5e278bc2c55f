// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package members

// reconcile is what a process that runs does to the run.
func (s *steps) reconcile(w *world, i int) {
	n := &w.nodes[i]
	switch n.work {
	case idle:
		s.observe(w, i)
	case asked:
		s.ask(w, i)
	case sent:
		if v := *w; v.lost() {
			m := &v.nodes[i]
			if !n.takes {
				m.ghost = n.fresh
				m.owe(n.number, n.pass)
			}
			m.rest()
			s.add(countUnknown, i, &v)
		}
	case stood:
		if v := *w; v.lost() {
			v.nodes[i].owe(n.number, n.pass)
			v.nodes[i].rest()
			s.add(countUnknown, i, &v)
		}
		v := *w
		m := &v.nodes[i]
		if n.held() || !s.checked {
			m.work = begun
		} else {
			m.owe(n.number, n.pass)
			m.rest()
		}
		s.add(countAnswered, i, &v)
	case begun:
		s.begin(w, i)
	}
	s.outcomes(w, i)
}

// ask is Members.Gone, and the write that may follow.
func (s *steps) ask(w *world, i int) {
	owner, all := int(w.run.owner)-1, []world{*w}
	if s.asks {
		all = s.read(w, i, owner)
	}
	for _, v := range all {
		n, e := &v.nodes[i], askOwner
		if s.asks && s.state(n.seen[owner]) != Gone {
			n.rest()
		} else {
			n.work, e = sent, writeOff
		}
		s.add(e, i, &v)
	}
}

func (r *rules) state(g glimpse) State {
	if !g.known {
		return Gone
	}
	return r.sighting(g).state()
}

// rest ends a reconcile.
func (n *node) rest() {
	n.work, n.fresh, n.takes, n.pass, n.number = idle, false, false, false, 0
}

func (n *node) owe(number uint8, pass bool) { n.owed, n.owedPass = number, pass }

// begin is Pool.Start.
func (s *steps) begin(w *world, i int) {
	v := *w
	n := &v.nodes[i]
	number := n.number
	if n.stopping || s.checked && !n.pass || n.live || number <= n.attempt {
		n.owe(number, n.pass)
		n.rest()
		s.add(startRefused, i, &v)
		return
	}
	wrong := ""
	switch {
	case v.started[number]:
		wrong = "an attempt is started twice"
	case v.counted[number] != uint8(i+1):
		wrong = "an attempt is started that its replica did not count"
	case !n.held() && !v.inTime[number]:
		wrong = "an attempt is started by a replica that is not held, and counted it when it was not"
	}
	v.started[number] = true
	n.attempt, n.live, n.ended = number, true, false
	n.owe(0, false)
	n.rest()
	s.add(startAttempt, i, &v)
	s.next[len(s.next)-1].wrong = wrong
}

// observe is a look at the run, and what is decided by it. A cache that is late is
// covered: what it makes us write is refused, like what we write late.
func (s *steps) observe(w *world, i int) {
	n, run := &w.nodes[i], w.run
	mine := run.owner == uint8(i+1)
	if n.owed != 0 {
		s.pay(w, i)
		return
	}
	if !n.held() || run.phase == finished || n.live || n.ended {
		return
	}
	other := Gone
	if run.owner != 0 && !mine {
		other = s.state(n.seen[run.owner-1])
	}
	v := *w
	m := &v.nodes[i]
	m.fresh, m.pass = true, true
	switch {
	case other == Live, other == Draining && run.phase == streaming:
	case run.phase == waiting && n.stopping:
	case run.phase == waiting && run.attempt == s.attempts:
		s.write(&v, status{phase: finished, owner: run.owner, attempt: run.attempt})
		v.nodes[i].rest()
		s.add(look1, i, &v)
	case run.phase == waiting:
		if !n.ghost {
			m.work, m.number = sent, run.attempt+1
			s.add(look1, i, &v)
		}
	case mine && run.attempt > n.attempt:
		s.lose(&v, i)
		m.rest()
		s.add(loseOwn, i, &v)
	case !mine:
		m.work, m.takes, m.number = asked, true, run.attempt
		s.add(look1, i, &v)
	}
}

// pay is a look at the run when an attempt is owed.
func (s *steps) pay(w *world, i int) {
	v := *w
	n := &v.nodes[i]
	counted := v.run == status{phase: streaming, owner: uint8(i + 1), attempt: n.owed}
	if !s.owedLive {
		counted = true
	}
	switch {
	case !n.held(), !counted, s.owedVoid && !n.owedPass:
		n.owe(0, false)
	case n.stopping:
		s.write(&v, status{phase: waiting, attempt: v.run.attempt})
		n.owe(0, false)
	default:
		n.work, n.number, n.pass = begun, n.owed, true
	}
	s.add(look1, i, &v)
}

// lose writes that the attempt of a run is lost.
func (s *steps) lose(w *world, i int) {
	next := status{phase: waiting, owner: uint8(i + 1), attempt: w.run.attempt}
	if next.attempt == s.attempts {
		next.phase = finished
	}
	s.write(w, next)
}

// write changes the run: what others read of it is the past.
func (s *steps) write(w *world, next status) {
	w.run = next
	for j := range w.nodes {
		n := &w.nodes[j]
		n.fresh, n.ghost = false, false
		if s.locked && (n.work == asked || n.work == sent) {
			n.rest() // what it writes is refused
		}
	}
}

// counts are what the API server does with writes of the run.
func (s *steps) counts(w *world, i int) {
	n := &w.nodes[i]
	if n.work == sent && (n.fresh || !s.locked) {
		v := *w
		m := &v.nodes[i]
		m.work = stood // it is not refused itself
		if n.takes {
			s.lose(&v, i)
			m.rest()
		} else {
			s.count(&v, i, n.number)
		}
		s.add(countStands, i, &v)
	}
	if n.ghost {
		v := *w
		s.count(&v, i, w.run.attempt+1)
		s.add(ghostStands, i, &v)
		v = *w
		v.nodes[i].ghost = false
		s.add(ghostVanishes, i, &v)
	}
}

// count is the write that counts an attempt.
func (s *steps) count(w *world, i int, number uint8) {
	w.counted[number], w.inTime[number] = uint8(i+1), w.nodes[i].held()
	s.write(w, status{phase: streaming, owner: uint8(i + 1), attempt: number})
}

// outcomes are what becomes of an attempt.
func (s *steps) outcomes(w *world, i int) {
	n := &w.nodes[i]
	ours := w.run == status{phase: streaming, owner: uint8(i + 1), attempt: n.attempt}
	if n.live {
		if v := *w; v.lost() {
			v.nodes[i].live, v.nodes[i].ended = false, true
			s.add(attemptEnds, i, &v)
		}
		if ours {
			v := *w
			v.nodes[i].live = false
			s.write(&v, status{phase: finished, owner: w.run.owner, attempt: n.attempt})
			s.add(answerStands, i, &v)
		} else if n.work == idle {
			v := *w
			v.nodes[i].live = false
			s.add(stopOwn, i, &v)
		}
	}
	if n.ended && n.work == idle {
		v := *w
		v.nodes[i].ended = false
		if ours {
			s.lose(&v, i)
		}
		s.add(outcomeStands, i, &v)
		if ours && n.stopping && n.attempt < s.attempts {
			v = *w
			v.nodes[i].ended = false
			s.write(&v, status{phase: waiting, attempt: n.attempt})
			s.add(outcomeStands, i, &v)
		}
	}
}

// leaving is a shutdown in order.
func (s *steps) leaving(w *world, i int) {
	n := &w.nodes[i]
	switch {
	case !n.stopping:
		if w.left.drains == 0 {
			return
		}
		v := *w
		v.left.drains--
		v.nodes[i].stopping = true
		s.add(drainUntold, i, &v)
		if w.lease[i].exists && w.lease[i].holder == n.ident {
			v.lease[i].draining = true
			s.add(drain, i, &v)
		}
	case !n.leaving:
		if n.live {
			v := *w
			v.nodes[i].live, v.nodes[i].ended = false, true
			s.add(graceEnds, i, &v)
		} else if !n.ended || !n.held() {
			v := *w
			v.nodes[i].leaving, v.nodes[i].left = true, 0
			v.nodes[i].fence()
			s.add(leave, i, &v)
		}
	default:
		if w.lease[i].holder == n.ident && n.renewal == idle {
			v := *w
			v.wrote(i, server{exists: true, draining: w.lease[i].draining})
			s.add(giveBack, i, &v)
		}
		v := *w
		v.nodes[i].die()
		s.add(exit, i, &v)
	}
}

// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package members

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"unsafe"
)

// search looks at every world that can be reached.
type search struct {
	steps
	known map[uint64]uint32
	// from and by are, of each world, the one before it and the step that led here.
	from []uint32
	by   []uint16
	// ahead are the worlds that were not looked at yet, from next on.
	ahead []world
	next  int
	// cut is how many steps away from the start all worlds were looked at; 0 if all
	// that there are were.
	cut int
	// graph has the steps that are no faults, and what has to stay reachable along them.
	graph    bool
	edges    []edge
	features []feature
}

type edge struct{ from, to uint32 }

// feature says what a world is, for what has to be reachable.
type feature uint8

const (
	isFinished feature = 1 << iota
	// allRun says that no process is stopped, and one takes on runs.
	allRun
	// runs0 says that replica 0 runs, and held0 that it is held.
	runs0
	held0
)

func (w *world) feature() feature {
	f, alive := allRun, false
	for i := range w.nodes {
		switch w.nodes[i].life {
		case stopped:
			f = 0
		case running:
			alive = alive || !w.nodes[i].stopping
		}
	}
	if !alive {
		f = 0
	}
	if w.run.phase == finished {
		f |= isFinished
	}
	if n := &w.nodes[0]; n.life == running && !n.leaving {
		f |= runs0
		if n.held() {
			f |= held0
		}
	}
	return f
}

// wrong says what is not allowed to be in a world.
func (w *world) wrong() string {
	under := 0
	for i := range w.nodes {
		n := &w.nodes[i]
		if n.life != running || !n.live || n.overdue() {
			continue // it was stopped, and has not come to its fence yet
		}
		if n.fenced {
			return "an attempt is under way after the fence"
		}
		under++
	}
	if under > 1 {
		return "two attempts are under way"
	}
	return ""
}

// cold is a world in which all processes have just started.
func cold(nodes int, b bounds) world {
	w := world{left: b}
	for i := range nodes {
		w.nodes[i] = node{life: running, ident: 1, fenced: true}
	}
	return w
}

// warm is one in which all have just renewed and know each other, and the first makes
// an attempt.
func warm(nodes int, r *rules, b bounds) world {
	w := cold(nodes, b)
	for i := range nodes {
		w.nodes[i].fenced, w.nodes[i].left = false, r.held
		w.wrote(i, server{exists: true, holder: 1})
	}
	for i := range nodes {
		for j := range nodes {
			if i != j {
				r.see(&w, i, j)
			}
		}
	}
	w.run = status{phase: streaming, owner: 1, attempt: 1}
	w.nodes[0].attempt, w.nodes[0].live = 1, true
	return w
}

// explore looks at all worlds, or at as many, those first that come about in fewer
// steps. It returns what is wrong and how it came; empty if nothing is.
func explore(nodes int, r rules, start world, most int, graph bool) (*search, string) {
	s := &search{steps: steps{rules: r, nodes: nodes}, known: map[uint64]uint32{}, graph: graph}
	seed := maphash.MakeSeed()
	visit := func(w *world, from uint32, by uint16) uint32 {
		s.tidy(w)
		if !graph {
			by |= uint16(s.order(w))
		}
		key := maphash.Bytes(seed, w.bytes())
		if id, ok := s.known[key]; ok {
			return id
		}
		id := uint32(len(s.from))
		s.known[key] = id
		s.from, s.by, s.ahead = append(s.from, from), append(s.by, by), append(s.ahead, *w)
		if graph {
			s.features = append(s.features, w.feature())
		}
		return id
	}
	visit(&start, 0, 0)
	for id := uint32(0); s.next < len(s.ahead); id++ {
		w := s.ahead[s.next]
		if s.next++; s.next > 1<<16 {
			s.ahead, s.next = append([]world(nil), s.ahead[s.next:]...), 0
		}
		if s.steps.next = s.steps.next[:0]; w.run.phase != finished {
			s.of(&w)
		}
		for k := range s.steps.next {
			step := &s.steps.next[k]
			to := visit(&step.world, id, uint16(step.event)<<5|uint16(step.node)<<3)
			if step.wrong == "" {
				step.wrong = step.world.wrong()
			}
			if step.wrong != "" {
				return s, step.wrong + ":" + s.story(id, step)
			}
			if graph && !step.event.fault() {
				s.edges = append(s.edges, edge{id, to})
			}
		}
		if len(s.from) > most {
			s.cut = s.depth(id)
			return s, ""
		}
	}
	return s, ""
}

// depth returns how many steps a world is away from the start.
func (s *search) depth(id uint32) int {
	n := 0
	for ; id != 0; id = s.from[id] {
		n++
	}
	return n
}

func (s *search) String() string {
	if s.cut > 0 {
		return fmt.Sprintf("%d worlds, all that are less than %d steps away", len(s.from), s.cut)
	}
	return fmt.Sprintf("%d worlds, all that there are", len(s.from))
}

// story tells how a world came to be. Along the way replicas changed places, so that
// worlds that differ in their names alone are one; it calls them as they began.
func (s *search) story(id uint32, last *step) string {
	var path []uint32
	for ; id != 0; id = s.from[id] {
		path = append(path, id)
	}
	slices.Reverse(path)
	var b strings.Builder
	names, line := [maxNodes]int{0, 1, 2}, 0
	tell := func(e event, node int) {
		line++
		fmt.Fprintf(&b, "\n%3d %c: %s", line, 'A'+names[node], events[e])
	}
	for _, id := range path {
		by := s.by[id]
		tell(event(by>>5), int(by>>3&3))
		before := names
		for i, j := range orders[by&7] {
			names[i] = before[j]
		}
	}
	tell(last.event, last.node)
	return b.String()
}

// orders are those in which the replicas can stand.
var orders = [][maxNodes]int{{0, 1, 2}, {1, 0, 2}, {0, 2, 1}, {2, 1, 0}, {1, 2, 0}, {2, 0, 1}}

// order puts the replicas of a world into the order in which its bytes come first, and
// returns which one that is.
func (s *search) order(w *world) int {
	best, first := *w, 0
	for k, order := range orders {
		if k > 0 && (s.nodes == 3 || k == 1) {
			if v := w.in(order); bytes.Compare(v.bytes(), best.bytes()) < 0 {
				best, first = v, k
			}
		}
	}
	*w = best
	return first
}

// in returns the world with its replicas in another order.
func (w *world) in(order [maxNodes]int) world {
	v := *w
	var at [maxNodes + 1]uint8
	for i, j := range order {
		at[j+1] = uint8(i + 1)
	}
	v.run.owner = at[w.run.owner]
	for k, by := range w.counted {
		v.counted[k] = at[by]
	}
	for i, j := range order {
		v.lease[i], v.nodes[i] = w.lease[j], w.nodes[j]
		for k, l := range order {
			v.nodes[i].seen[k] = w.nodes[j].seen[l]
		}
	}
	return v
}

// bytes are those of a world, which has no pointers and no gaps.
func (w *world) bytes() []byte {
	return (*[unsafe.Sizeof(world{})]byte)(unsafe.Pointer(w))[:]
}

// tidy forgets what makes no difference any more, so that fewer worlds differ.
func (s *search) tidy(w *world) {
	var needed [maxAttempts + 1]bool
	for i := range s.nodes {
		n := &w.nodes[i]
		ours := status{phase: streaming, owner: uint8(i + 1), attempt: n.owed}
		if s.owedVoid && !n.owedPass || s.owedLive && w.run != ours && !n.ghost {
			n.owe(0, false) // the next look finds that it is not to be started
		}
		ours.attempt = n.attempt
		n.ended = n.ended && w.run == ours // the next look forgets it
		if !n.live && !n.ended && (w.run.owner != uint8(i+1) || n.attempt < w.run.attempt) {
			n.attempt = 0 // what is counted next has a higher number in any case
		}
		for j := range s.nodes {
			if g := &n.seen[j]; s.state(*g) == Gone && (!g.current || !g.held) {
				*g = glimpse{} // whatever is seen next is something else, or the same
			}
		}
		needed[n.owed] = true
		if n.work != idle {
			needed[n.number] = true
		}
	}
	for k := range w.counted {
		if !needed[k] {
			// Nobody can start it any more.
			w.counted[k], w.inTime[k], w.started[k] = 0, false, false
		}
	}
}

// stuck returns how many worlds there are of a feature from which none of the other
// can be reached without a fault, and how one came to be.
func (s *search) stuck(from, goal feature) (int, string) {
	reaches := make([]bool, len(s.features))
	for id, f := range s.features {
		reaches[id] = f&goal != 0
	}
	for changed := true; changed; {
		changed = false
		for _, e := range slices.Backward(s.edges) {
			if reaches[e.to] && !reaches[e.from] {
				reaches[e.from], changed = true, true
			}
		}
	}
	n, example := 0, ""
	for id, f := range s.features {
		if f&from != 0 && !reaches[id] {
			if n++; n == 1 {
				example = s.story(uint32(id), &step{})
			}
		}
	}
	return n, example
}

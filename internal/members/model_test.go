// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package members

// A model of the protocol by which replicas share runs, and a search of all that can
// become of it: model_test.go has what there is, model_lease_test.go what happens to
// Leases, model_run_test.go what happens to the run, model_search_test.go the search,
// and model_check_test.go what is asked of it.
//
// It covers one run, and two or three replicas with a Lease each:
//   - A renewal stands, and is answered late or never; the timer of the fence, which is
//     due before the next tick in a process that runs, and comes in any order with what
//     else that process does; a renewal that comes before a late fence.
//   - A process that is stopped and goes on, or dies and comes back as the same process
//     of its name or as another, between any two steps, and what it sent before then.
//   - A watch of Leases that is late by any time, apart from that of runs; reads of a
//     Lease; a Lease that is deleted, and put back.
//   - The run: looked at, counted by a locked write that stands at any time later, or
//     of unknown result, also after the replica gave up; the look whether we are held,
//     and the start by a pass, apart from it. The take-over of one that streams or
//     waits; an attempt that is owed; drain, hand-over, giving back.
//   - Whoever may take a run on by its ownership may do so at any time: rendezvous and
//     the grace of claims only make that rarer.
//
// What follows from a Lease that was seen, from a read of one and from a renewal is
// asked of the code itself: look, sighting.after, read, due and state, and tenure.
//
// It does not cover:
//   - Clocks that run at other rates, and one that stands still while its machine does.
//   - A timer or a goroutine that is late by a third of a Lease while its process runs.
//   - A former state of a Lease that is told after a later one, and a cache of runs that
//     is late: what is written after that is refused, and nothing is started without a
//     write or a live read. Two processes of one name at the same time.
//   - The controller's own code: ownership, decide and observe are written anew here.
//     Back-offs, deadlines, places, titles and what a person wants of the run.
//   - That a fence ends an attempt at once: here it does, and streamer tests it.

import (
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// maxNodes is how many replicas a world holds at most, maxAttempts how often the run
// may be tried at most: two attempts are what can be under way at once, and a third is
// what comes of a count of unknown result.
const maxNodes, maxAttempts = 3, 3

// scale is how finely a world is looked at. A Lease lapses after some ticks, and its
// holder is fenced a tick before. Whatever happens within a tick happens in every order.
type scale struct {
	lease, held uint8
	// attempts is how often the run may be tried.
	attempts uint8
}

var (
	coarse = scale{lease: 2, held: 1, attempts: 2}
	fine   = scale{lease: 3, held: 2, attempts: 3}
)

// epoch is where the clock of whoever looks stands. What the model keeps of time are
// ages, so no two clocks are ever compared.
var epoch = time.Unix(1<<30, 0)

func ticks(n uint8) time.Duration { return time.Duration(n) * time.Second }

// life is that of a process.
type life uint8

const (
	dead life = iota
	running
	stopped // by SIGSTOP, or a machine that stood still
)

// stage is where a request is, or a reconcile that makes one.
type stage uint8

const (
	idle stage = iota
	// asked: it is to be made sure that the owner is gone.
	asked
	// sent: the API server may do it at any time, or never.
	sent
	// stood: it was done, and the answer is under way.
	stood
	// begun: the count stands and we are held, for all we know, and start is next.
	begun
)

// phase is the run's.
type phase uint8

const (
	waiting phase = iota // Pending, or Retrying
	streaming
	finished
)

// status is the run's. owner is one more than the index of a replica.
type status struct {
	phase          phase
	owner, attempt uint8
}

// server is a Lease as the API server has it. holder is which process of the name
// holds it, 0 for none.
type server struct {
	exists, draining bool
	holder           uint8
}

// nobody is a holder that no process is.
const nobody = 3

// glimpse is what a process saw of a Lease. current says that the record is still
// the API server's, and held that it names a holder.
type glimpse struct {
	known, current, held, draining, lapsed bool
	age                                    uint8
}

// node is a replica: a name, and its process if one lives.
type node struct {
	life
	// ident tells processes of one name apart, 1 or 2.
	ident uint8
	// left is how many ticks the process may still act.
	left              uint8
	fenced            bool
	stopping, leaving bool
	// renewal is the request that renews the Lease, idle or stood, and began its age.
	renewal stage
	began   uint8
	// former is what was seen of our own Lease while another process held it.
	former glimpse
	seen   [maxNodes]glimpse

	// work is where the reconcile of the run is. fresh says that the run is still as
	// it was read, takes that the attempt of another is written off, number what is
	// counted, and pass that no fence came since.
	work               stage
	fresh, takes, pass bool
	number             uint8
	// ghost says that a count which was given up may still be done.
	ghost bool
	// attempt is the last that was started here, live that it is under way, and ended
	// that its outcome is not recorded.
	attempt     uint8
	live, ended bool
	// owed is an attempt that was counted, for all we know, and owedPass says that no
	// fence came since.
	owed     uint8
	owedPass bool
}

// bounds are how often the world may do what it must not be able to do for ever.
type bounds struct {
	// losses are requests whose answer does not come, be they done or not.
	losses, stops, crashes, deletions, drains uint8
}

// world is all that there is.
type world struct {
	run   status
	lease [maxNodes]server
	nodes [maxNodes]node
	// counted is who counted an attempt, one more than its index, and inTime that it
	// was held when the count was done. started says that it was made.
	counted         [maxAttempts + 1]uint8
	inTime, started [maxAttempts + 1]bool
	left            bounds
}

// rules are the protocol's. Each can be broken.
type rules struct {
	scale
	// confirmed: a Lease lapses by a read, not by a watch that may be late.
	confirmed bool
	// early: a renewal counts from when it was sent, not from when it was answered.
	early bool
	// lateFences: a renewal that comes late fences before it counts.
	lateFences bool
	// checked: an attempt is started only if we are held, and by a pass that no fence
	// voided.
	checked bool
	// patient: a Lease that is not there is that of a live replica for a while.
	patient bool
	// locked: a write is refused if the run is not as it was read.
	locked bool
	// owedLive: what is owed is started only if a read finds it counted by us.
	owedLive bool
	// asks: a run that streams is taken over only after a look at its owner's Lease
	// that is younger than the read of the run.
	asks bool
	// owedVoid: what is owed is not started after a fence.
	owedVoid bool
}

func protocol(s scale) rules {
	return rules{
		scale: s, confirmed: true, early: true, lateFences: true, checked: true, patient: true,
		locked: true, owedLive: true, asks: true, owedVoid: true,
	}
}

// sighting is a glimpse as the real code has it.
func (r *rules) sighting(g glimpse) sighting {
	s := sighting{duration: ticks(r.lease), draining: g.draining, since: epoch.Add(-ticks(g.age)), lapsed: g.lapsed}
	s.record = recordOf(g.held, g.current)
	return s
}

// recordOf makes records that differ if one of them is the API server's and the other
// is not. No others are compared.
func recordOf(held, current bool) record {
	r := record{renewed: epoch}
	if held {
		r.holder = "somebody"
	}
	if current {
		r.transitions = 1
	}
	return r
}

// glimpsed is the way back.
func (r *rules) glimpsed(s sighting, current bool) glimpse {
	age := min(uint8(epoch.Sub(s.since)/time.Second), r.lease)
	return glimpse{known: true, current: current, held: s.holder != "", draining: s.draining, lapsed: s.lapsed, age: age}
}

// object is a Lease as the API server sends it, nil for none.
func (r *rules) object(l server) *coordinationv1.Lease {
	if !l.exists {
		return nil
	}
	return objects[r.lease][l.holder != 0][l.draining]
}

// objects are all the Leases that there can be, by how long they last, whether they
// name a holder, and whether they drain. Nobody changes one.
var objects = func() map[uint8]map[bool]map[bool]*coordinationv1.Lease {
	all := map[uint8]map[bool]map[bool]*coordinationv1.Lease{}
	for _, s := range []scale{coarse, fine} {
		all[s.lease] = map[bool]map[bool]*coordinationv1.Lease{}
		for _, held := range []bool{false, true} {
			r, seconds := recordOf(held, true), int32(s.lease)
			lease := &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{
				HolderIdentity: &r.holder, LeaseTransitions: &r.transitions,
				LeaseDurationSeconds: &seconds, RenewTime: &metav1.MicroTime{Time: r.renewed},
			}}
			drains := lease.DeepCopy()
			drains.Annotations = map[string]string{annotationDraining: drainingYes}
			all[s.lease][held] = map[bool]*coordinationv1.Lease{false: lease, true: drains}
		}
	}
	return all
}()

// tenure is how long a process may act, as the real code has it.
func (n *node) tenure() tenure {
	if n.left == 0 && n.fenced {
		return tenure{fenced: true}
	}
	return tenure{until: epoch.Add(ticks(n.left)), fenced: n.fenced}
}

func (n *node) held() bool { return n.tenure().held(epoch) }

// overdue says that the fence has to fall.
func (n *node) overdue() bool { return n.tenure().over(epoch) }

// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package members

import (
	"slices"
	"strconv"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
)

// State is what a replica is to the others.
type State uint8

const (
	// Gone: it gave its Lease back, or did not renew it, or was never there.
	Gone State = iota
	// Live: it owns what it owns, and takes on more.
	Live
	// Draining: it ends what it streams, and takes on nothing.
	Draining
)

// What a Lease says beside its spec.
const (
	labelReplica       = "chatrun.dev/replica"
	annotationAddress  = "chatrun.dev/relay-address"
	annotationDraining = "chatrun.dev/draining"
	annotationWatches  = "chatrun.dev/watches"
	annotationScope    = "chatrun.dev/namespaces"

	drainingYes = "true"
)

// maxDuration bounds the duration that a Lease may claim for itself: a mistake in
// it must not keep a run from being taken over for ever.
const maxDuration = 5 * time.Minute

// tenure is how long we may act.
type tenure struct {
	// until is when it ends; zero before the first renewal.
	until time.Time
	// fenced says that all was ended since until was last ahead.
	fenced bool
}

func (t tenure) held(now time.Time) bool { return !t.fenced && !t.past(now) }

// over says that all has to be ended.
func (t tenure) over(now time.Time) bool { return !t.fenced && t.past(now) }

// past says whether the end has come, by either of the two clocks of a process: the
// one that no setting changes stands still with a machine that is suspended, and the
// one on the wall may be set back.
func (t tenure) past(now time.Time) bool {
	return !now.Before(t.until) || !now.Round(0).Before(t.until.Round(0))
}

// renewed is what follows from a renewal that was begun at start, for within from
// then on.
func (tenure) renewed(start time.Time, within time.Duration) tenure {
	return tenure{until: start.Add(within)}
}

// record is what a renewal changes. Whoever edits anything else of a Lease keeps
// nobody alive.
type record struct {
	holder      string
	renewed     time.Time
	transitions int32
}

// sighting is what was seen of a replica's Lease.
type sighting struct {
	record
	duration time.Duration
	address  string
	draining bool
	watches  Buckets
	scope    scope
	// since is when this record was first seen, by our own clock.
	since time.Time
	// lapsed says that a read a whole duration after since found it unchanged.
	lapsed bool
}

// look is what a Lease says at this moment.
func look(lease *coordinationv1.Lease, now time.Time) sighting {
	s := sighting{since: now, address: lease.Annotations[annotationAddress], watches: AllBuckets, scope: parseScope(lease.Annotations[annotationScope])}
	s.draining = lease.Annotations[annotationDraining] == drainingYes
	if text, ok := lease.Annotations[annotationWatches]; ok {
		mask, err := strconv.ParseUint(text, 16, 64)
		if err != nil {
			mask = 0 // it says nothing that can be relied on
		}
		s.watches = Buckets(mask)
	}
	spec := &lease.Spec
	if spec.HolderIdentity != nil {
		s.holder = *spec.HolderIdentity
	}
	if spec.RenewTime != nil {
		s.renewed = spec.RenewTime.Time
	}
	if spec.LeaseTransitions != nil {
		s.transitions = *spec.LeaseTransitions
	}
	if spec.LeaseDurationSeconds != nil {
		s.duration = min(time.Duration(*spec.LeaseDurationSeconds)*time.Second, maxDuration)
	}
	return s
}

// after returns what is known once this was seen after that: the same record is as
// old as when it was first seen.
func (s sighting) after(before sighting) sighting {
	if s.same(before) {
		s.since, s.lapsed = before.since, before.lapsed
	}
	return s
}

// read returns what is known once a read found a Lease. Our watch may be late, so
// the read decides: it lapsed if it is as it was seen a whole duration before.
func (s sighting) read(lease *coordinationv1.Lease, now time.Time) sighting {
	next := look(lease, now).after(s)
	next.lapsed = next.same(s) && !now.Before(next.due())
	return next
}

func (s sighting) same(other sighting) bool {
	return s.holder == other.holder && s.transitions == other.transitions && s.renewed.Equal(other.renewed)
}

// givenBack says that its holder gave it up.
func (s sighting) givenBack() bool { return s.holder == "" && !s.since.IsZero() }

// due is when a read may find that the Lease lapsed.
func (s sighting) due() time.Time { return s.since.Add(s.duration) }

func (s sighting) state() State {
	switch {
	case s.holder == "" || s.lapsed:
		return Gone
	case s.draining:
		return Draining
	}
	return Live
}

// view is what follows from what was seen of all, this replica included. It does
// not change once it is made.
type view struct {
	states map[string]State
	// names are those that take runs on, sorted, and scopes the namespaces that some
	// of them watch alone.
	names  []string
	scopes map[string]scope
	// owners are those of each bucket among the ones that watch all namespaces.
	owners [NumBuckets]string
	// watches are the buckets that the others of these say they watch.
	watches map[string]Buckets
}

func newView(states map[string]State, watches map[string]Buckets, scopes map[string]scope) *view {
	v := &view{states: states, watches: watches, scopes: scopes}
	for name, state := range states {
		if state == Live {
			v.names = append(v.names, name)
		}
	}
	slices.Sort(v.names)
	all := slices.DeleteFunc(slices.Clone(v.names), func(name string) bool { return scopes[name] != "" })
	for bucket := range v.owners {
		v.owners[bucket] = first(all, bucketKey(bucket))
	}
	return v
}

// in returns the names of those that take on runs of a namespace, sorted.
func (v *view) in(namespace string) []string {
	if len(v.scopes) == 0 {
		return v.names
	}
	return slices.DeleteFunc(slices.Clone(v.names), func(name string) bool { return !v.scopes[name].has(namespace) })
}

// owner returns who takes on the runs of a namespace in a bucket.
func (v *view) owner(namespace string, bucket int) string {
	if len(v.scopes) == 0 {
		return v.owners[bucket]
	}
	return first(v.in(namespace), bucketKey(bucket))
}

// rank returns how many replicas come before one in the order for a key of a
// namespace, and false if it is not among them.
func (v *view) rank(name, namespace, key string) (int, bool) {
	names := slices.Clone(v.in(namespace))
	for rank := 0; len(names) > 0; rank++ {
		next := first(names, key)
		if next == name {
			return rank, true
		}
		names = slices.DeleteFunc(names, func(n string) bool { return n == next })
	}
	return 0, false
}

// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/members"
)

// TestOwnership: whose a run is, for every standing that its owner, its status and
// the members can have to each other.
func TestOwnership(t *testing.T) {
	const live, draining, gone = members.Live, members.Draining, members.Gone
	ours, theirs, turn := ownership{}, ownership{otherOwnerLive: true}, ownership{othersTurn: true}
	for _, tc := range []struct {
		name string
		p    position
		lies time.Duration
		want ownership
	}{
		{"a Lease that is not held: nothing is", position{owner: "me", holder: "me", streaming: true}, 0, ownership{unheld: true}},
		{"nothing of a finished run, either", position{holder: "me", finished: true}, 0, ownership{unheld: true}},

		{"new, and falls to us", position{held: true, holder: "me"}, 0, ours},
		{"new, and falls to another", position{held: true, holder: "b", rank: 1}, 0, ownership{othersTurn: true, turnAfter: claimGrace}},
		{"and lies there", position{held: true, holder: "b", rank: 1}, claimGrace - time.Second, ownership{othersTurn: true, turnAfter: time.Second}},
		{"and lies there for too long", position{held: true, holder: "b", rank: 1}, claimGrace, ours},
		{"and two come before us", position{held: true, holder: "b", rank: 2}, claimGrace, ownership{othersTurn: true, turnAfter: claimGrace}},
		{"and we take on nothing", position{held: true, holder: "b", rank: -1}, time.Hour, turn},
		{"another says why it waits", position{held: true, holder: "b", rank: 1, told: true}, time.Hour, turn},
		{"another holds all places of the provider", position{held: true, holder: "b", rank: 1, limited: true}, time.Hour, turn},
		{"nobody takes on anything", position{held: true, rank: -1, stopping: true}, 0, ours},

		{"ours, and streams", position{held: true, owner: "me", state: live, streaming: true, holder: "b"}, 0, ours},
		{"ours, and waits, whomever it would fall to", position{held: true, owner: "me", state: live, holder: "b"}, 0, ours},
		{"ours, and its provider's places are another's", position{held: true, owner: "me", state: live, holder: "b", limited: true}, 0, ownership{misplaced: true}},
		{"as they are by now, while it streams", position{held: true, owner: "me", state: live, streaming: true, holder: "b", limited: true}, 0, ours},
		{"ours to hold as well", position{held: true, owner: "me", state: live, holder: "me", limited: true}, 0, ours},
		{"ours, and nobody's to hold", position{held: true, owner: "me", state: live, limited: true}, 0, ours},
		{"ours, streams, and we drain", position{held: true, stopping: true, owner: "me", state: draining, streaming: true, holder: "b", rank: -1}, 0, ours},
		{"ours, waits, and we drain", position{held: true, stopping: true, owner: "me", state: draining, holder: "b", rank: -1}, 0, turn},
		{"ours, waits, we drain, and nobody is left", position{held: true, stopping: true, owner: "me", state: draining, rank: -1}, 0, ours},

		{"another's, that lives", position{held: true, owner: "b", state: live, holder: "me"}, time.Hour, theirs},
		{"another's, that drains and streams", position{held: true, owner: "b", state: draining, streaming: true, holder: "me"}, time.Hour, theirs},
		{"another's, that drains, and it waits", position{held: true, owner: "b", state: draining, holder: "me"}, 0, ours},
		{"another's, that drains, it waits, and falls to a third", position{held: true, owner: "b", state: draining, holder: "c", rank: 1}, 0, ownership{othersTurn: true, turnAfter: claimGrace}},
		{"another's, that is gone", position{held: true, owner: "b", state: gone, streaming: true, holder: "me"}, 0, ours},
		{"another's, that is gone, and it falls to a third", position{held: true, owner: "b", state: gone, streaming: true, holder: "c", rank: 1}, 0, ownership{othersTurn: true, turnAfter: claimGrace}},
		{"which lets it lie", position{held: true, owner: "b", state: gone, streaming: true, holder: "c", rank: 1}, claimGrace, ours},

		{"finished, whoever made it", position{held: true, owner: "b", state: live, finished: true, holder: "me"}, 0, ours},
		{"finished, and another looks after it", position{held: true, owner: "me", state: live, finished: true, holder: "b", rank: 1}, time.Hour, turn},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.p.me = "me"
			if got := tc.p.ownership(func() time.Duration { return tc.lies }); got != tc.want {
				t.Errorf("%+v, want %+v", got, tc.want)
			}
			if got, want := tc.want.lets(), tc.want == ours || tc.want.misplaced; got != want {
				t.Errorf("%+v lets: %v", tc.want, got)
			}
		})
	}
}

// TestTheClockOfARunThatLiesRunsOnceOnly: it begins when the run is first seen to
// lie, and anew if it was seen in somebody's hands, or is another one.
func TestTheClockOfARunThatLiesRunsOnceOnly(t *testing.T) {
	var u unowned
	key := types.NamespacedName{Namespace: "ns", Name: "hello"}
	for i, want := range []time.Duration{0, time.Second, 2 * time.Second} {
		if got := u.since(key, "a", t0.Add(time.Duration(i)*time.Second)); got != want {
			t.Errorf("look %d: %v", i, got)
		}
	}
	if got := u.since(key, "b", t0.Add(time.Minute)); got != 0 {
		t.Errorf("another run of that name: %v", got)
	}
	u.forget(key)
	if got := u.since(key, "b", t0.Add(time.Hour)); got != 0 {
		t.Errorf("after it was in hands: %v", got)
	}
	u.forget(key)
	if len(u.first) != 0 {
		t.Errorf("%d are remembered", len(u.first))
	}
}

// TestDecideByOwnership: rows 2, 3 and 15 as far as the owner decides.
func TestDecideByOwnership(t *testing.T) {
	for _, tc := range []struct {
		name  string
		f     facts
		verb  verb
		row   int
		after time.Duration
	}{
		{"unheld: our attempt ends", facts{run: newRun(streaming(1)), pool: pool(1, nil), ownership: ownership{unheld: true}}, stop, 3, 0},
		{"unheld: nothing starts", facts{run: newRun(), ownership: ownership{unheld: true}}, ignore, 3, 0},
		{"unheld: an answer waits", facts{run: newRun(streaming(1)), pool: pool(1, good(1)), ownership: ownership{unheld: true}}, ignore, 3, 0},
		{"read before we claimed it, and another's turn by then", facts{run: newRun(), pool: pool(1, nil), ownership: ownership{othersTurn: true}}, ignore, 4, 0},
		{"read before we took it over", facts{run: newRun(waiting(1, time.Second)), pool: pool(2, nil), ownership: ownership{otherOwnerLive: true}}, ignore, 4, 0},
		{"read before we wrote that it failed", facts{run: newRun(streaming(1)), pool: settled(1), ownership: ownership{othersTurn: true}}, ignore, 4, 0},
		{"taken over while we stream it", facts{run: newRun(waiting(1, time.Minute)), pool: pool(1, nil), ownership: ownership{otherOwnerLive: true}}, stop, 3, 0},
		{"another's turn", facts{run: newRun(), ownership: ownership{othersTurn: true, turnAfter: time.Second}}, ignore, 3, time.Second},
		{"lost, and another's turn", facts{run: newRun(streaming(1)), ownership: ownership{othersTurn: true}}, ignore, 3, 0},
		{"lost, and ours by now", facts{run: newRun(streaming(1))}, retry, 12, time.Second},
		{"waits, and ours by now", facts{run: newRun(waiting(1, time.Minute))}, hold, 13, time.Minute - time.Second},
		{"misplaced, and waits", facts{run: newRun(waiting(1, time.Minute)), ownership: ownership{misplaced: true}}, hold, 13, time.Minute - time.Second},
		{"misplaced, and its wait is over", facts{run: newRun(waiting(1, time.Second)), ownership: ownership{misplaced: true}}, handOver, 15, 0},
		{"finished: another deletes it", facts{run: newRun(ended(succeed, ""), ttl(0)), ownership: ownership{othersTurn: true}}, forget, 2, 0},
		{"finished: we do", facts{run: newRun(ended(succeed, ""), ttl(0))}, expire, 2, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := decide(tc.f, t0.Add(time.Second))
			if d.verb != tc.verb || d.row != tc.row || d.after != tc.after {
				t.Errorf("%s by row %d after %v, want %s by row %d after %v", d.verb, d.row, d.after, tc.verb, tc.row, tc.after)
			}
		})
	}
}

// TestWhoFindsAnAttemptLostOwnsTheWait: or nobody could tell from the status who is
// about to make the next one.
func TestWhoFindsAnAttemptLostOwnsTheWait(t *testing.T) {
	run := newRun(streaming(3))
	run.Status.Worker = "gone"
	d := decide(facts{run: run}, t0)
	s := nextStatus(run, d, actor{worker: "me"}, t0)
	if s.Worker != "me" || s.Phase != v1alpha1.PhaseRetrying || s.LastErrorReason != "WorkerLost" || *s.Attempt != 3 {
		t.Errorf("%+v", s)
	}
}

func TestHandedOverIsNobodysAndWaitsForNothing(t *testing.T) {
	run := newRun(waiting(2, time.Second))
	run.Status.Worker = "me"
	s := nextStatus(run, decision{verb: handOver}, actor{worker: "me"}, t0)
	if s.Worker != "" || s.Phase != v1alpha1.PhasePending || s.RetryingAt != nil || s.DelayMs != nil || *s.Attempt != 2 {
		t.Errorf("%+v", s)
	}
}

// TestAbroad: an attempt counts at its provider from when another replica has it
// until it has not, and not one of our own.
func TestAbroad(t *testing.T) {
	var a abroad
	of := func(uid types.UID, worker string, options ...runOption) *v1alpha1.ChatRun {
		run := newRun(options...)
		run.UID, run.Status.Worker = uid, worker
		return run
	}
	at := func(want int) {
		t.Helper()
		if got := a.at("ns", "fake"); got != want {
			t.Errorf("%d are under way elsewhere, want %d", got, want)
		}
	}
	steps := []struct {
		run   *v1alpha1.ChatRun
		freed bool
		left  int
	}{
		{of("a", "me", streaming(1)), false, 0},
		{of("b", "b", streaming(1)), false, 1},
		{of("b", "b", streaming(1)), false, 1},
		{of("c", "c", streaming(4)), false, 2},
		{of("b", "b", waiting(1, time.Second)), true, 1},
		{of("b", "b", waiting(1, time.Second)), false, 1},
		{of("c", "me", streaming(5)), true, 0},
	}
	for i, step := range steps {
		if freed := a.see(step.run, "me"); freed != step.freed {
			t.Errorf("step %d: it made room: %v", i, freed)
		}
		at(step.left)
	}
	a.see(of("d", "b", streaming(1)), "me")
	if !a.gone(of("d", "b")) || a.gone(of("d", "b")) {
		t.Error("a run that is deleted makes room once")
	}
	at(0)
	if len(a.byProvider) != 0 {
		t.Errorf("%v is remembered", a.byProvider)
	}
}

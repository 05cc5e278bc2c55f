// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package places

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

// TestPlacesAreConserved does random things, and holds what the package promises
// after each.
func TestPlacesAreConserved(t *testing.T) {
	for seed := range uint64(30) {
		synctest.Test(t, func(t *testing.T) {
			conserve(t, rand.New(rand.NewPCG(seed, 1)))
		})
	}
}

func conserve(t *testing.T, r *rand.Rand) {
	t.Helper()
	var w woken
	limit := 1 + r.IntN(8)
	p := New(limit, w.wake)
	namespaces := []string{"a", "b", "c"}
	forced := map[Key]bool{}
	held := func(k Key) bool { return p.held[k] != nil }
	for range 2000 {
		c := limited(claim(namespaces[r.IntN(3)], r.IntN(30)), 3)
		if r.IntN(3) == 0 {
			c.Provider = "shared"
		}
		c.Model = []string{"m", "n"}[r.IntN(2)]
		switch r.IntN(10) {
		case 0, 1, 2, 3, 4:
			if s := p.held[c.Key]; s != nil {
				c = s.Claim
			}
			if got, _ := p.Ask(c); (got == Granted) != held(c.Key) {
				t.Fatalf("%s, and has a place: %v", got, held(c.Key))
			}
		case 5:
			p.Begun(c.Key, c.UID)
		case 6:
			if p.held[c.Key] == nil && r.IntN(10) == 0 {
				p.Force(c)
				forced[c.Key] = true
			}
		case 7:
			p.Ended(c.Key, c.UID, Result{Refused: true, Until: time.Now().Add(time.Second)})
		case 8:
			p.Ended(c.Key, c.UID, Result{Accepted: true})
		default:
			p.Leave(c.Key)
			<-time.After(time.Duration(r.IntN(1000)) * time.Millisecond)
			synctest.Wait()
		}
		for k := range forced {
			if !held(k) {
				delete(forced, k)
			}
		}
		checkPlaces(t, p, limit, len(forced))
	}
	for _, keys := range [][]Key{keysOf(p.held), keysOf(p.waiting), keysOf(p.held)} {
		for _, k := range keys {
			p.Leave(k)
		}
	}
	for range 3 {
		for _, k := range keysOf(p.held) {
			p.Leave(k)
		}
	}
	<-time.After(2 * gateMemory)
	synctest.Wait()
	empty(t, p)
}

func keysOf[V any](m map[Key]V) []Key {
	var keys []Key
	for k := range m {
		keys = append(keys, k)
	}
	return keys
}

func checkPlaces(t *testing.T, p *Places, limit, forced int) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.held) > limit+forced {
		t.Fatalf("%d places of %d, %d forced", len(p.held), limit, forced)
	}
	perProvider, perNamespace := map[string]int{}, map[string]int{}
	perGate, begun := map[gateKey]int{}, map[gateKey]int{}
	for k, s := range p.held {
		perProvider[s.Provider]++
		perNamespace[k.Namespace]++
		perGate[s.gate.key]++
		if s.begun {
			begun[s.gate.key]++
		}
		if p.waiting[k] != nil {
			t.Fatalf("%v has a place and waits", k)
		}
	}
	for uid, to := range p.providers {
		if to.held != perProvider[uid] || to.held > to.limit+forced && to.limit > 0 {
			t.Fatalf("%s: %d places, counted %d, limit %d", uid, perProvider[uid], to.held, to.limit)
		}
		for model, g := range to.gates {
			k := gateKey{uid, model}
			if g.held != perGate[k] || g.begun != begun[k] || g.provider != to || g.key != k {
				t.Fatalf("%v: %d places, %d begun, counted %d and %d", k, perGate[k], begun[k], g.held, g.begun)
			}
			if due := g.due(time.Now()); !due.Equal(g.alarmAt) {
				t.Fatalf("%v is due at %v, and its alarm rings at %v", k, due, g.alarmAt)
			}
		}
	}
	waiting := 0
	for k, q := range p.queues {
		waiting += len(q.waiters)
		if p.namespaces[k.namespace] != q.namespace || p.providers[k.gate.provider].gates[k.gate.model] != q.gate {
			t.Fatalf("the queue %v counts for nobody", k)
		}
		if len(p.held) < limit && q.gate.room(time.Now()) {
			t.Fatalf("%v waits, and there is room", q.oldest().Key)
		}
	}
	if waiting != len(p.waiting) {
		t.Fatalf("%d wait, %d in queues", len(p.waiting), waiting)
	}
	for name, n := range p.namespaces {
		if n.held != perNamespace[name] {
			t.Fatalf("%s has %d places, counted %d", name, perNamespace[name], n.held)
		}
	}
}

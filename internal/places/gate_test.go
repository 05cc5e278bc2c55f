// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package places

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// of returns a claim at a model.
func of(model string, c Claim) Claim { c.Model = model; return c }

// refuse has an attempt refused whose run may go on after a pause.
func refuse(t *testing.T, p *Places, c Claim, pause time.Duration) {
	t.Helper()
	ask(t, p, c, Granted)
	p.Ended(c.Key, c.UID, Result{Refused: true, Until: time.Now().Add(pause)})
}

// widthOf is how wide the gate of a model is.
func widthOf(p *Places, model string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.providers["a/provider"].gates[model].width
}

// closed is a gate that n refusals in a row closed while nothing was accepted. The
// provider is quiet for a second.
func closed(t *testing.T, p *Places, model string) {
	t.Helper()
	for i := range 11 {
		refuse(t, p, of(model, claim("a", 900+i)), time.Second)
	}
	if n := widthOf(p, model); n != 1 {
		t.Fatalf("it is %d wide", n)
	}
}

// risen is a gate that was closed, and rises by one behind a first attempt that was
// accepted, while n others wait; known sets what is known of it before.
func risen(t *testing.T, p *Places, n int, known func(*gate)) (*gate, Claim) {
	t.Helper()
	closed(t, p, "")
	<-time.After(time.Second)
	first := claim("a", 0)
	ask(t, p, first, Granted)
	p.Begun(first.Key, first.UID)
	for i := range n {
		p.Ask(claim("a", 1+i))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	g := p.providers["a/provider"].gates[""]
	known(g)
	g.rise(time.Now())
	return g, first
}

// leaveAll ends all that is held and waits, and looks that nothing stays.
func leaveAll(t *testing.T, p *Places) {
	t.Helper()
	p.mu.Lock()
	waiting, held := keysOf(p.waiting), keysOf(p.held)
	p.mu.Unlock()
	for _, k := range append(waiting, held...) {
		p.Leave(k)
	}
	<-time.After(2 * gateMemory)
	synctest.Wait()
	empty(t, p)
}

// gated runs a test with places on a virtual clock; woken are those that were
// woken since it was asked last.
func gated(t *testing.T, test func(p *Places, woken func() []Key)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var w woken
		p := New(0, w.wake)
		test(p, func() []Key {
			synctest.Wait()
			return w.take()
		})
		leaveAll(t, p)
	})
}

// TestChanceClosesNoGate: few refusals among what is accepted hold off nobody, and
// eleven in a row do.
func TestChanceClosesNoGate(t *testing.T) {
	gated(t, func(p *Places, _ func() []Key) {
		for i := range 10 {
			refuse(t, p, claim("a", i), time.Minute)
		}
		ask(t, p, claim("a", 100), Granted)
		ask(t, p, claim("a", 101), Granted)
		p.Begun(claim("a", 100).Key, claim("a", 100).UID)
		for i := range 2 {
			p.Ended(claim("a", 101).Key, claim("a", 101).UID, Result{Refused: true, Until: time.Now()})
			ask(t, p, claim("a", 101), []Answer{Granted, ProviderRefuses}[i])
		}
	})
}

// TestRiseIsTakenBack by as many refusals in a row as are no chance, and not by
// fewer.
func TestRiseIsTakenBack(t *testing.T) {
	for _, tc := range []struct {
		refused, width int
		accepted       bool // between the refusals
	}{{2, 2, false}, {3, 1, false}, {3, 2, true}} {
		gated(t, func(p *Places, _ func() []Key) {
			g, first := risen(t, p, 20, func(g *gate) {
				g.share = 0.2 // as after many that were accepted
				g.streak = 5  // before it rose
			})
			for i := range tc.refused {
				p.Ask(claim("a", 50))
				p.mu.Lock()
				k := slices.DeleteFunc(keysOf(p.held), func(k Key) bool { return k == first.Key })[0]
				if tc.accepted && i == 1 {
					g.accepted(time.Now())
					g.peak = g.before // not more than before at a time
				}
				p.mu.Unlock()
				p.Ended(k, uidOf(k), Result{Refused: true, Until: time.Now()})
			}
			if n := widthOf(p, ""); n != tc.width {
				t.Errorf("%+v: it is %d wide", tc, n)
			}
		})
	}
}

// TestForgottenGate: nothing that was known of a gate outlives its memory.
func TestForgottenGate(t *testing.T) {
	gated(t, func(p *Places, _ func() []Key) {
		risen(t, p, 1, func(*gate) {})
		<-time.After(time.Hour)
		for i := range 100 {
			ask(t, p, claim("a", 100+i), Granted)
		}
		for i := range 3 {
			c := claim("a", 100+i)
			p.Ended(c.Key, c.UID, Result{Refused: true, Until: time.Now()})
		}
		if n := widthOf(p, ""); n != 0 {
			t.Errorf("three refusals of a hundred closed it to %d", n)
		}
	})
}

// TestQuietIsBounded: a run that waits long does not keep others from probing.
func TestQuietIsBounded(t *testing.T) {
	gated(t, func(p *Places, woken func() []Key) {
		closed(t, p, "")
		<-time.After(time.Second)
		refuse(t, p, claim("a", 0), time.Hour)
		ask(t, p, claim("a", 1), ProviderRefuses)
		<-time.After(maxQuiet - time.Millisecond)
		if got := woken(); len(got) != 0 {
			t.Errorf("woken early: %v", got)
		}
		<-time.After(time.Millisecond)
		if got := woken(); !slices.Equal(got, []Key{claim("a", 1).Key}) {
			t.Errorf("woken: %v", got)
		}
	})
}

// TestFreedByAnotherModel: a place of a provider that another model takes, and gives
// back, is missed by nobody.
func TestFreedByAnotherModel(t *testing.T) {
	a, b := of("x", claim("a", 1)), of("y", claim("a", 2))
	t.Run("while it is quiet", func(t *testing.T) {
		gated(t, func(p *Places, woken func() []Key) {
			closed(t, p, "y")
			ask(t, p, limited(a, 1), Granted)
			ask(t, p, limited(b, 1), ProviderFull)
			p.Ended(a.Key, a.UID, Result{Accepted: true})
			<-time.After(time.Second)
			if got := woken(); !slices.Equal(got, []Key{b.Key}) {
				t.Errorf("woken: %v", got)
			}
		})
	})
	t.Run("while a probe is silent", func(t *testing.T) {
		gated(t, func(p *Places, woken func() []Key) {
			closed(t, p, "y")
			<-time.After(time.Second)
			ask(t, p, limited(of("y", claim("a", 0)), 2), Granted)
			ask(t, p, limited(a, 2), Granted)
			ask(t, p, limited(b, 2), ProviderFull)
			p.Ended(a.Key, a.UID, Result{Accepted: true})
			<-time.After(maxQuiet)
			if got := woken(); !slices.Equal(got, []Key{b.Key}) {
				t.Errorf("woken: %v", got)
			}
		})
	})
}

// TestGateDoesNotSpin: where more is under way than the gate lets through, and none
// of it was accepted, it rises by steps of time.
func TestGateDoesNotSpin(t *testing.T) {
	gated(t, func(p *Places, _ func() []Key) {
		closed(t, p, "")
		for i := range 200 {
			p.Force(claim("a", i))
		}
		p.Ask(claim("a", 500))
		<-time.After(maxQuiet + time.Second)
		synctest.Wait()
		if n := widthOf(p, ""); n > 3 {
			t.Errorf("it is %d wide", n)
		}
	})
}

// TestManyModels: the names that people give models do not multiply what is kept.
func TestManyModels(t *testing.T) {
	gated(t, func(p *Places, _ func() []Key) {
		for i := range 1000 {
			ask(t, p, of(fmt.Sprint("model-", i), claim("a", i)), Granted)
		}
		if n := len(p.providers["a/provider"].gates); n > maxModels+1 {
			t.Errorf("%d gates", n)
		}
	})
}

// TestYield gives back a place, and keeps a turn.
func TestYield(t *testing.T) {
	p := New(1, func(Key) {})
	ask(t, p, claim("a", 1), Granted)
	ask(t, p, claim("a", 2), ManagerFull)
	p.Yield(claim("a", 2).Key)
	if p.waiting[claim("a", 2).Key] == nil {
		t.Error("it lost its turn")
	}
	p.Yield(claim("a", 1).Key)
	if p.held[claim("a", 1).Key] != nil || p.held[claim("a", 2).Key] == nil {
		t.Error("it kept its place")
	}
	p.Leave(claim("a", 2).Key)
	empty(t, p)
}

// TestModelsApart: what a provider refuses of one model says nothing of another.
func TestModelsApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(0, func(Key) {})
		busy, other := claim("a", 0), claim("a", 1)
		busy.Model, other.Model = "busy", "other"
		for range 30 {
			ask(t, p, busy, Granted)
			p.Ended(busy.Key, busy.UID, Result{Refused: true, Until: time.Now().Add(time.Second)})
			<-time.After(maxQuiet)
		}
		ask(t, p, busy, Granted)
		waits := claim("a", 2)
		waits.Model = busy.Model
		ask(t, p, waits, ProviderRefuses)
		ask(t, p, other, Granted)
		// The bound of the provider is one for all its models.
		last := limited(claim("a", 3), 2)
		last.Model = "third"
		ask(t, p, last, ProviderFull)
		for _, c := range []Claim{busy, other, waits, last} {
			p.Leave(c.Key)
		}
		<-time.After(2 * gateMemory)
		synctest.Wait()
		empty(t, p)
	})
}

// TestSilentProbe: a provider that neither takes nor refuses what it is asked is
// asked again, by few.
func TestSilentProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var woken []Key
		p := New(0, func(k Key) {
			mu.Lock()
			defer mu.Unlock()
			woken = append(woken, k)
		})
		for i := range 30 {
			c := claim("a", i)
			ask(t, p, c, Granted)
			p.Ended(c.Key, c.UID, Result{Refused: true, Until: time.Now().Add(time.Second)})
			<-time.After(maxQuiet)
		}
		for i := range 40 {
			p.Ask(claim("a", i))
		}
		<-time.After(10 * time.Minute)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if n := len(woken); n < 10 || n > int(10*time.Minute/maxQuiet) {
			t.Errorf("%d were woken in ten minutes", n)
		}
		for i := range 40 {
			p.Leave(claim("a", i).Key)
		}
		leaveAll(t, p)
	})
}

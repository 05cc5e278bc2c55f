// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package places

import (
	"slices"
	"sync"
	"testing"
	"time"
)

func ask(t *testing.T, p *Places, c Claim, want Answer) {
	t.Helper()
	if got, _ := p.Ask(c); got != want {
		t.Fatalf("%s asks: %s, want %s", c.UID, got, want)
	}
}

func wokenAre(t *testing.T, w *woken, want ...Key) {
	t.Helper()
	if got := w.take(); !slices.Equal(got, want) {
		t.Fatalf("woken: %v, want %v", got, want)
	}
}

func TestOldestFirst(t *testing.T) {
	var w woken
	p := New(1, w.wake)
	ask(t, p, claim("a", 9), Granted)
	ask(t, p, claim("a", 3), ManagerFull)
	ask(t, p, claim("a", 1), ManagerFull)
	ask(t, p, claim("a", 2), ManagerFull)
	ask(t, p, claim("a", 9), Granted) // asked again
	for _, next := range []int{1, 2, 3} {
		p.Leave(w2(p))
		wokenAre(t, &w, claim("a", next).Key)
		ask(t, p, claim("a", next), Granted)
	}
	p.Leave(w2(p))
	wokenAre(t, &w)
	empty(t, p)
}

// uidOf is that which claim gives to a run.
func uidOf(k Key) string { return k.Namespace + "/" + k.Name }

// w2 is the one that has a place.
func w2(p *Places) Key {
	for k := range p.held {
		return k
	}
	return Key{}
}

func empty(t *testing.T, p *Places) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.held) + len(p.waiting) + len(p.queues) + len(p.namespaces) + len(p.providers); n > 0 {
		t.Errorf("left behind: %v %v %v %v %v", p.held, p.waiting, p.queues, p.namespaces, p.providers)
	}
}

func TestProviderLimit(t *testing.T) {
	var w woken
	p := New(0, w.wake)
	ask(t, p, limited(claim("a", 1), 2), Granted)
	ask(t, p, limited(claim("a", 2), 2), Granted)
	ask(t, p, limited(claim("a", 3), 2), ProviderFull)
	ask(t, p, limited(claim("a", 4), 2), ProviderFull)
	other := limited(claim("a", 5), 1)
	other.Provider = "another"
	ask(t, p, other, Granted) // the oldest wait for another provider

	// The bound is raised: whoever asks first says so for all.
	ask(t, p, limited(claim("a", 4), 3), ProviderFull)
	wokenAre(t, &w, claim("a", 3).Key)
	// And lowered: those that have a place keep it.
	ask(t, p, limited(claim("a", 3), 1), Granted)
	p.Leave(claim("a", 1).Key)
	p.Leave(claim("a", 2).Key)
	wokenAre(t, &w)
	p.Leave(claim("a", 3).Key)
	wokenAre(t, &w, claim("a", 4).Key)
	// And dropped.
	ask(t, p, limited(claim("a", 6), 1), ProviderFull)
	ask(t, p, limited(claim("a", 7), 0), Granted)
	wokenAre(t, &w, claim("a", 6).Key)
	for _, i := range []int{4, 5, 6, 7} {
		p.Leave(claim("a", i).Key)
	}
	empty(t, p)
}

func TestFewestHeldFirst(t *testing.T) {
	var w woken
	p := New(3, w.wake)
	for i := range 3 {
		ask(t, p, claim("big", i), Granted)
	}
	for i := range 5 {
		ask(t, p, claim("big", 3+i), ManagerFull)
		ask(t, p, claim("small", 100+i), ManagerFull)
	}
	// small holds none, then as many as big, then more; of equals the one that was
	// served longer ago.
	p.Leave(claim("big", 0).Key) // big 2, small 0
	wokenAre(t, &w, claim("small", 100).Key)
	p.Leave(claim("big", 1).Key) // big 1, small 1: big was served longer ago
	wokenAre(t, &w, claim("big", 3).Key)
	p.Leave(claim("big", 2).Key) // big 1, small 1: now small was
	wokenAre(t, &w, claim("small", 101).Key)
}

func TestForceAndReplace(t *testing.T) {
	var w woken
	p := New(1, w.wake)
	ask(t, p, claim("a", 1), Granted)
	ask(t, p, claim("a", 2), ManagerFull)
	p.Force(claim("a", 2))
	ask(t, p, claim("a", 2), Granted)
	p.Force(claim("a", 2))
	p.Leave(claim("a", 1).Key)
	ask(t, p, claim("a", 3), ManagerFull)
	// Another object of the same name takes over nothing.
	again := claim("a", 2)
	again.UID, again.Created = "new", t0.Add(time.Hour)
	ask(t, p, again, ManagerFull)
	wokenAre(t, &w, claim("a", 3).Key)
	p.Leave(again.Key)
	p.Leave(claim("a", 3).Key)
	p.Leave(claim("a", 3).Key)
	empty(t, p)
}

// TestNewcomersTakeTurns: a namespace with a backlog has its turn among others
// that come with one run at a time, and are forgotten in between.
func TestNewcomersTakeTurns(t *testing.T) {
	var w woken
	p := New(1, w.wake)
	places := map[string]int{}
	ask(t, p, claim("b", 0), Granted)
	running := claim("b", 0).Key
	for i := range 1000 {
		p.Ask(claim("backlog", i))
	}
	for i := 1; i <= 300; i++ {
		next := claim(map[string]string{"b": "c", "c": "b"}[running.Namespace], i)
		if running.Namespace != "backlog" {
			ask(t, p, next, ManagerFull)
		}
		p.Ended(running, uidOf(running), Result{Accepted: true})
		running = w.take()[0]
		places[running.Namespace]++
	}
	if places["backlog"] < 100 || places["b"] < 70 || places["c"] < 70 {
		t.Errorf("of 300 places %v", places)
	}
}

// TestWordsAreOfOneRun: what an attempt of a run that is gone tells late is not
// another's of the same name.
func TestWordsAreOfOneRun(t *testing.T) {
	p := New(0, func(Key) {})
	ask(t, p, claim("a", 1), Granted)
	p.Begun(claim("a", 1).Key, "former")
	if p.held[claim("a", 1).Key].begun {
		t.Error("the other's part counts")
	}
	p.Begun(claim("a", 1).Key, claim("a", 1).UID)
	if !p.held[claim("a", 1).Key].begun {
		t.Error("its own does not")
	}
	p.Ended(claim("a", 1).Key, "former", Result{Refused: true})
	if p.held[claim("a", 1).Key] == nil {
		t.Error("the other's end took its place")
	}
	p.Ended(claim("a", 1).Key, claim("a", 1).UID, Result{Accepted: true})
	empty(t, p)
	ask(t, p, limited(claim("a", 2), 1), Granted)
	ask(t, p, limited(claim("a", 1), 1), ProviderFull)
	p.Ended(claim("a", 1).Key, "former", Result{})
	if p.waiting[claim("a", 1).Key] == nil {
		t.Error("the other's end took its turn")
	}
}

// TestProviderIsForgotten when nobody waits for it any more.
func TestProviderIsForgotten(t *testing.T) {
	p := New(1, func(Key) {})
	ask(t, p, claim("a", 1), Granted)
	c := claim("a", 2)
	for _, c.Provider = range []string{"x", "y", "z"} {
		ask(t, p, c, ManagerFull)
	}
	p.Leave(claim("a", 1).Key)
	for _, c.Provider = range []string{"z", "y"} {
		ask(t, p, c, Granted)
	}
	c.Provider = "x"
	p.Force(c) // it has a place already
	if len(p.providers) != 1 {
		t.Errorf("known are %v", p.providers)
	}
	p.Leave(c.Key)
	empty(t, p)
}

// TestFairness is the issue's: A with 1,000 runs, B with 10, 20 places.
func TestFairness(t *testing.T) {
	var w woken
	p := New(20, w.wake)
	var running []Key
	add := func(namespace string, n int) {
		for i := range n {
			if got, _ := p.Ask(claim(namespace, i)); got == Granted {
				running = append(running, claim(namespace, i).Key)
			}
		}
	}
	add("a", 1000)
	add("b", 10)
	done, doneA, lastB := 0, 0, 0
	for len(running) > 0 {
		k := running[0]
		running = running[1:]
		done++
		if k.Namespace == "a" {
			doneA++
		} else {
			lastB = doneA
		}
		p.Ended(k, uidOf(k), Result{Accepted: true})
		running = append(running, w.take()...)
	}
	t.Logf("B's last run was done after %d of A's %d", lastB, doneA)
	if done != 1010 || lastB >= 50 {
		t.Errorf("%d done, B's last after %d of A's", done, lastB)
	}
	empty(t, p)
}

// TestManyAtOnce lets goroutines ask and leave at will: no place is lost, and
// everybody gets one.
func TestManyAtOnce(t *testing.T) {
	turns := map[Key]chan struct{}{}
	for i := range 400 {
		turns[claim([]string{"a", "b", "c", "d"}[i%4], i).Key] = make(chan struct{}, 1)
	}
	p := New(7, func(k Key) { turns[k] <- struct{}{} })
	var work sync.WaitGroup
	for i := range 400 {
		work.Go(func() {
			c := limited(claim([]string{"a", "b", "c", "d"}[i%4], i), 5)
			if got, _ := p.Ask(c); got != Granted {
				<-turns[c.Key]
				if got, _ := p.Ask(c); got != Granted {
					t.Errorf("woken for %s", got)
				}
			}
			p.Begun(c.Key, c.UID)
			p.Ended(c.Key, c.UID, Result{Accepted: true})
		})
	}
	work.Wait()
	empty(t, p)
}

func BenchmarkPlaces(b *testing.B) {
	p := New(20, func(Key) {})
	for i := range 10_000 {
		c := claim("", i%10)
		c.Key.Namespace = string(rune('a' + i%1000))
		c.Key.Name += string(rune('a' + i/1000))
		c.Provider = c.Key.Namespace
		p.Ask(c)
	}
	b.ResetTimer()
	for i := range b.N {
		k := w2(p)
		c := p.held[k].Claim
		c.Created = t0.Add(time.Duration(i) * time.Second)
		p.Ended(k, c.UID, Result{Accepted: true})
		p.Ask(c)
	}
	if len(p.held) != 20 || len(p.waiting) != 10_000-20 {
		b.Errorf("%d have a place, %d wait", len(p.held), len(p.waiting))
	}
}

// TestElsewhereCounts: what others have under way at a provider takes its places,
// and the last to ask knows how many.
func TestElsewhereCounts(t *testing.T) {
	var w woken
	p := New(0, w.wake)
	at := func(n, elsewhere int) Claim {
		c := claim("a", n)
		c.Limit, c.Elsewhere = 3, elsewhere
		return c
	}
	ask(t, p, at(1, 2), Granted)
	ask(t, p, at(2, 2), ProviderFull)
	ask(t, p, at(3, 5), ProviderFull)
	ask(t, p, at(2, 1), Granted)
	wokenAre(t, &w)
	ask(t, p, at(3, 0), Granted)
	wokenAre(t, &w)
	for n := range 3 {
		p.Leave(claim("a", n+1).Key)
	}
	empty(t, p)
}

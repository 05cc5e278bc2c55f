// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package crowd

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sync"
	"time"
)

// dials is how many readers join at a time, so that the server's queue of new
// connections does not overflow.
const dials = 64

// process is the crowd's side of the calls.
type process struct {
	mu     sync.Mutex
	groups map[string]*group
}

// group is the readers of a Group.
type group struct {
	Group
	readers []*reader
	reading sync.WaitGroup

	mu sync.Mutex
	// mark is the place that is awaited, behind how many readers are not there
	// yet. reached is closed once none is, or lost is not nil.
	mark, behind int
	reached      chan struct{}
	// lost is why a reader ended that was expected to go on.
	lost error
}

// Join implements Crowd.Join.
func (p *process) Join(args Group, _ *bool) error {
	g := &group{Group: args, readers: make([]*reader, len(args.Paths)), mark: math.MaxInt}
	join := g.dial
	if len(args.CA) > 0 {
		join = g.client()
	}
	var failed error
	var once sync.Once
	var work sync.WaitGroup
	for worker := range dials {
		work.Go(func() {
			for i := worker; i < len(g.readers); i += dials {
				r := &reader{group: g, path: g.Paths[i]}
				g.readers[i] = r
				if err := join(r, i); err != nil {
					once.Do(func() { failed = fmt.Errorf("reader %d of %s: %w", i, g.Name, err) })
					return
				}
			}
		})
	}
	work.Wait()
	if failed != nil {
		return failed
	}
	for _, r := range g.readers {
		if r.read != nil {
			g.reading.Go(r.run)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.groups[g.Name] = g
	return nil
}

// Await implements Crowd.Await.
func (p *process) Await(m Mark, _ *bool) error {
	g, err := p.find(m.Group)
	if err != nil {
		return err
	}
	g.mu.Lock()
	g.mark, g.behind, g.reached = m.At, 0, make(chan struct{})
	for _, r := range g.readers {
		if r.has < g.mark {
			g.behind++
		}
	}
	reached := g.reached
	g.settle()
	g.mu.Unlock()
	<-reached
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mark = math.MaxInt
	return g.lost
}

// settle tells Await, if it is there, that there is nothing to await any more.
func (g *group) settle() {
	if g.reached != nil && (g.behind == 0 || g.lost != nil) {
		close(g.reached)
		g.reached = nil
	}
}

// moved says that a reader has so much now.
func (g *group) moved(r *reader, has int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	was := r.has >= g.mark
	r.has = has
	if is := has >= g.mark; is && !was {
		g.behind--
	} else if was && !is {
		g.behind++
	}
	g.settle()
}

// swap gives a reader another connection.
func (g *group) swap(r *reader, conn io.Closer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	_ = r.conn.Close()
	r.conn = conn
}

// ended says that a reader has ended before its time.
func (g *group) ended(r *reader, why error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r.has < g.mark {
		g.lost = errors.Join(g.lost, fmt.Errorf("%s ended at %d: %w", r.path, r.has, why))
		g.settle()
	}
}

// End implements Crowd.End.
func (p *process) End(name string, reply *Report) error {
	g, err := p.find(name)
	if err != nil {
		return err
	}
	g.reading.Wait()
	var all []time.Duration
	for _, r := range g.readers {
		reply.Results = append(reply.Results, r.result)
		all = append(all, r.latencies...)
	}
	reply.Latency = distribution(all)
	return p.Leave(name, nil)
}

// distribution sorts all.
func distribution(all []time.Duration) Latency {
	if len(all) == 0 {
		return Latency{}
	}
	slices.Sort(all)
	at := func(percent int) time.Duration { return all[(len(all)-1)*percent/100] }
	return Latency{Count: len(all), P50: at(50), P99: at(99), Max: at(100)}
}

// Leave implements Crowd.Leave.
func (p *process) Leave(name string, _ *bool) error {
	g, err := p.find(name)
	if err != nil {
		return err
	}
	g.mu.Lock()
	for _, r := range g.readers {
		_ = r.conn.Close()
	}
	g.mu.Unlock()
	g.reading.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.groups, name)
	return nil
}

func (p *process) find(name string) (*group, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	g := p.groups[name]
	if g == nil {
		return nil, fmt.Errorf("no group %q", name)
	}
	return g, nil
}

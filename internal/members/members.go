// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package members

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/clock"
)

const (
	// DefaultDuration is client-go's own of a leader: long enough for an API server
	// that restarts, short enough for people who wait for an answer.
	DefaultDuration = 15 * time.Second
	// MinDuration leaves room for a renewal that meets a slow API server.
	MinDuration = 3 * time.Second
	// MaxDuration is what other replicas believe at most.
	MaxDuration = maxDuration
)

// A replica renews seven times in a duration, and is fenced after two thirds of it:
// the last third is for ending what it does. These are client-go's proportions.
func renewEvery(d time.Duration) time.Duration { return d * 2 / 15 }
func renewWithin(d time.Duration) time.Duration {
	return d * 2 / 3
}

// Options configure New.
type Options struct {
	// Client makes the requests, each within a third of Duration, so that one that
	// hangs is not what fences us.
	Client kubernetes.Interface
	// Namespace holds the Leases of all replicas.
	Namespace string
	// Name is ours: that of the Lease, unique among those that live at a time.
	Name string
	// Process tells this process from others of its name. The next process of a
	// container has the same one, its pod's UID, and need not wait for the Lease of
	// the one before to lapse. Empty: one that nobody else has.
	Process string
	// RelayAddress is where other replicas reach our relay endpoint, host:port; empty
	// if they do not.
	RelayAddress string
	// Namespaces are those that we watch; none is all. Others leave us no run of
	// another one.
	Namespaces []string
	// Owners are those of the Lease that we make, by its namespace; nil is none.
	Owners func(ctx context.Context, namespace string) []metav1.OwnerReference
	// Sharded says that we watch a share of the runs, and will say which by Watching.
	Sharded bool
	// Duration is how long others wait for a renewal, in whole seconds, from
	// MinDuration to MaxDuration.
	Duration time.Duration
	// Clock is what the Lease says that it was renewed at, for people: nobody goes by it.
	// It is the real one if nil.
	Clock clock.PassiveClock
	Log   logr.Logger
}

// Members are the replicas of the manager, as this one knows them. Its methods may
// be called by any goroutine, and none but Start and Leave blocks.
type Members struct {
	o        Options
	identity string
	alone    bool

	// end, changed and moved are Observe's.
	end, changed, moved func()

	nudge chan struct{}
	// left is closed by Leave, and done by Start when it returns.
	left, done chan struct{}
	leave      sync.Once

	mu sync.Mutex
	// started says that Start was called.
	started bool
	// seen are the others, by name.
	seen map[string]sighting
	// leaves says that we leave with our Lease held.
	leaves bool
	// synced says that all that lived at our start are among them.
	synced bool
	tenure
	fence    *time.Timer
	draining bool
	watches  *Buckets
	current  *view
	problem  error // of the last renewal that failed
}

// New returns the members. They know nothing before Start.
func New(o Options) (*Members, error) {
	switch {
	case o.Duration < MinDuration || o.Duration > MaxDuration || o.Duration%time.Second != 0:
		return nil, fmt.Errorf("the duration of a Lease must be of whole seconds, from %s to %s", MinDuration, MaxDuration)
	case o.Namespace == "":
		return nil, errors.New("the namespace of the Leases is not known")
	}
	m := &Members{
		o: o, nudge: make(chan struct{}, 1), left: make(chan struct{}), done: make(chan struct{}),
		seen: map[string]sighting{}, current: newView(nil, nil, nil), tenure: tenure{fenced: true},
	}
	if m.o.Clock == nil {
		m.o.Clock = clock.RealClock{}
	}
	if o.Sharded {
		m.watches = new(Buckets)
	}
	if m.o.Process == "" {
		m.o.Process = rand.String(16)
	}
	m.identity = m.o.Name + "_" + m.o.Process
	return m, nil
}

// Alone returns the members of a manager that is the only one: it is always held,
// and whoever else owned a run is gone.
func Alone(name string) *Members { return Fixed(name, map[string]State{name: Live}) }

// Fixed returns members that are what they are said to be, and never change, so that
// what follows from it can be tested. It keeps no Lease, and is always held.
func Fixed(me string, states map[string]State) *Members {
	return &Members{o: Options{Name: me}, alone: true, current: newView(states, nil, nil)}
}

// Observe is to be called once, before Start. fence ends all that we do to runs: it
// is called before others may take them over, may be called again, and must not
// block. changed is called after somebody came, went or drains, this replica included,
// and moved after another one watches other buckets; they must not block, and may be
// called by several goroutines.
func (m *Members) Observe(fence, changed, moved func()) {
	m.end, m.changed, m.moved = fence, changed, moved
}

// NeedLeaderElection implements manager.LeaderElectionRunnable: there is no leader.
func (*Members) NeedLeaderElection() bool { return false }

// Me returns our own name.
func (m *Members) Me() string { return m.o.Name }

// Held reports whether we may act: our Lease stands, and nobody may take us for
// gone before it is renewed or we are fenced.
func (m *Members) Held() bool {
	if m.alone {
		return true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.heldLocked()
}

func (m *Members) heldLocked() bool { return m.synced && m.held(time.Now()) }

// Ready says why we take on no runs; nil if we do.
func (m *Members) Ready() error {
	switch state := m.view().states[m.o.Name]; {
	case !m.Held():
		return errors.New("our Lease is not held")
	case state == Draining:
		return errors.New("we drain")
	}
	return nil
}

// State returns what a replica is to the runs of a namespace, this one included: Gone
// also if it does not watch that.
func (m *Members) State(namespace, name string) State {
	v := m.view()
	if !v.scopes[name].has(namespace) {
		return Gone
	}
	return v.states[name]
}

// OwnerOf returns the replica that a run falls to which nobody owns, by its namespace
// and UID; empty if there is none.
func (m *Members) OwnerOf(namespace, uid string) string {
	return m.view().owner(namespace, BucketOf(uid))
}

// Owners returns the replica of each bucket, among those that watch all namespaces.
func (m *Members) Owners() [NumBuckets]string { return m.view().owners }

// HolderOf returns the replica that all runs of a limited provider fall to, by the
// provider's namespace and UID; empty if there is none.
func (m *Members) HolderOf(namespace, provider string) string {
	return first(m.view().in(namespace), "provider-"+provider)
}

// Rank returns how many replicas come before us in the order for a run, and false
// if we take on no runs.
func (m *Members) Rank(namespace, uid string) (int, bool) {
	return m.view().rank(m.o.Name, namespace, bucketKey(BucketOf(uid)))
}

// Address returns where a live replica's relay endpoint is, as host:port.
func (m *Members) Address(name string) (string, bool) {
	if m.alone {
		return "", false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.seen[name]
	return s.address, s.address != "" && s.state() != Gone
}

// WatchedBy returns the buckets that each live replica but this one watches, of those
// that watch all namespaces.
func (m *Members) WatchedBy() map[string]Buckets { return m.view().watches }

func (m *Members) view() *view {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.current
}

// Start implements manager.Runnable. It ends with Leave, and not with ctx: what we
// did has to be ended first.
func (m *Members) Start(ctx context.Context) error {
	if m.alone {
		<-ctx.Done()
		return nil
	}
	defer close(m.done)
	m.mu.Lock()
	m.started = true
	m.mu.Unlock()
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var beside sync.WaitGroup
	defer beside.Wait()
	beside.Go(func() {
		<-m.left
		cancel()
	})
	if m.follow(ctx, &beside) {
		m.hold(ctx)
	}
	return nil
}

// Drain tells others that we take on nothing more.
func (m *Members) Drain(ctx context.Context) error {
	m.mu.Lock()
	m.draining = true
	held := m.alone || m.heldLocked()
	m.mu.Unlock()
	m.refresh()
	if m.alone || !held {
		return nil // a Lease that we do not hold may be another process's
	}
	return m.annotate(ctx, map[string]string{annotationDraining: "true"})
}

// Watching tells others which buckets we watch.
func (m *Members) Watching(ctx context.Context, b Buckets) error {
	m.mu.Lock()
	m.watches = &b
	m.mu.Unlock()
	if m.alone {
		return nil
	}
	return m.annotate(ctx, map[string]string{annotationWatches: b.String()})
}

// Leave ends the members: from then on we are not held. Once all that we did has ended,
// our Lease is given back; else it lapses by itself. It may be called again, and
// without Start.
func (m *Members) Leave(ctx context.Context, ended bool) {
	if m.alone {
		return
	}
	m.leave.Do(func() {
		m.mu.Lock()
		m.until, m.leaves = time.Time{}, !ended
		m.mu.Unlock()
		close(m.left)
	})
	m.mu.Lock()
	started := m.started
	m.mu.Unlock()
	if !started {
		return
	}
	select {
	case <-m.done:
	case <-ctx.Done():
	}
}

// refresh makes the view anew, and says so if it changed.
func (m *Members) refresh() {
	m.mu.Lock()
	states, watches := make(map[string]State, len(m.seen)+1), make(map[string]Buckets, len(m.seen))
	scopes := map[string]scope{}
	for name, s := range m.seen {
		state := s.state()
		switch {
		case state == Gone:
			continue
		case s.scope == "":
			watches[name] = s.watches
		default:
			scopes[name] = s.scope
		}
		states[name] = state
	}
	if own := scopeOf(m.o.Namespaces); own != "" {
		scopes[m.o.Name] = own
	}
	switch {
	case !m.alone && !m.heldLocked():
	case m.draining:
		states[m.o.Name] = Draining
	default:
		states[m.o.Name] = Live
	}
	changed := !maps.Equal(states, m.current.states) || !maps.Equal(scopes, m.current.scopes)
	moved := !maps.Equal(watches, m.current.watches)
	if changed || moved {
		m.current = newView(states, watches, scopes)
	}
	m.mu.Unlock()
	if changed && m.changed != nil {
		m.changed()
	}
	if moved && m.moved != nil {
		m.moved()
	}
}

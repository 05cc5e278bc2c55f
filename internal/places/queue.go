// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package places

import (
	"container/heap"
	"time"
)

// queueKey names those who wait for the same: the runs of one namespace that ask
// one model of a provider.
type queueKey struct {
	namespace string
	gate      gateKey
}

// queue holds who waits, the oldest first.
type queue struct {
	namespace *namespace
	gate      *gate
	waiters   waiters
}

// waiter is a run that waits.
type waiter struct {
	Claim
	gate  *gate
	since time.Time
	// at is where in the heap it stands.
	at int
}

// before is the order of fairness among queues.
func (q *queue) before(other *queue) bool {
	a, b := q.namespace, other.namespace
	switch {
	case a == b:
		return q.oldest().before(other.oldest())
	case a.held != b.held:
		return a.held < b.held
	case a.served != b.served:
		return a.served < b.served
	default:
		return q.oldest().before(other.oldest())
	}
}

func (q *queue) oldest() *waiter { return q.waiters[0] }

// before is the order of runs: by age, and by name among those of one second,
// which is all that an object's age tells.
func (w *waiter) before(other *waiter) bool {
	if !w.Created.Equal(other.Created) {
		return w.Created.Before(other.Created)
	}
	if w.Key.Namespace != other.Key.Namespace {
		return w.Key.Namespace < other.Key.Namespace
	}
	return w.Key.Name < other.Key.Name
}

// enqueue lets a run wait for its turn. One that waits already keeps it, unless
// it asks with something else.
func (p *Places) enqueue(c Claim, to *gate, now time.Time) {
	if w := p.waiting[c.Key]; w != nil {
		if w.UID == c.UID && w.gate == to && w.Created.Equal(c.Created) {
			return
		}
		p.dequeue(w)
		defer p.tidy(w.gate, now)
	}
	k := queueKey{c.Key.Namespace, to.key}
	q := p.queues[k]
	if q == nil {
		q = &queue{namespace: p.namespace(k.namespace), gate: to}
		q.namespace.users++
		p.queues[k] = q
	}
	w := &waiter{Claim: c, gate: to, since: now}
	heap.Push(&q.waiters, w)
	to.waiting++
	p.waiting[c.Key] = w
}

// dequeue takes a run out of its queue.
func (p *Places) dequeue(w *waiter) {
	delete(p.waiting, w.Key)
	k := queueKey{w.Key.Namespace, w.gate.key}
	q := p.queues[k]
	heap.Remove(&q.waiters, w.at)
	w.gate.waiting--
	if len(q.waiters) == 0 {
		delete(p.queues, k)
		p.release(k.namespace)
	}
}

// waiters is a heap.
type waiters []*waiter

func (w waiters) Len() int           { return len(w) }
func (w waiters) Less(i, j int) bool { return w[i].before(w[j]) }
func (w waiters) Swap(i, j int) {
	w[i], w[j] = w[j], w[i]
	w[i].at, w[j].at = i, j
}

// Push implements heap.Interface.
func (w *waiters) Push(x any) {
	next := x.(*waiter) //nolint:errcheck,forcetypeassert // this package pushes nothing else
	next.at = len(*w)
	*w = append(*w, next)
}

// Pop implements heap.Interface.
func (w *waiters) Pop() any {
	last := len(*w) - 1
	out := (*w)[last]
	(*w)[last] = nil
	*w = (*w)[:last]
	return out
}

// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package shards_test

import (
	"context"
	"fmt"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/controller"
	"chatrun.dev/operator/internal/members"
	"chatrun.dev/operator/test/harness"
)

var _ = Describe("an API server that filters by shard", Ordered, func() { sharded(true) })

var _ = Describe("an API server that does not", Ordered, func() { sharded(false) })

func sharded(filters bool) {
	var (
		plane     *harness.ControlPlane
		namespace string
	)
	BeforeAll(func() {
		var err error
		plane, err = startPlane(context.Background(), filters)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() { Expect(plane.Stop()).To(Succeed()) })
	})
	BeforeEach(func(ctx SpecContext) {
		var err error
		namespace, err = newNamespace(ctx, plane.Client)
		Expect(err).NotTo(HaveOccurred())
	})
	AfterEach(func(ctx SpecContext) {
		Expect(plane.Client.DeleteAllOf(ctx, &v1alpha1.ChatRun{}, client.InNamespace(namespace))).To(Succeed())
	})
	start := func(shares *controller.Shares) *replica {
		GinkgoHelper()
		r, err := newReplica(context.Background(), plane.ManagerConfig, shares)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(r.stop)
		return r
	}

	It("gives each of three its share, and the owner its runs", func(ctx SpecContext) {
		const stored = 60
		total := map[string]int{}
		put := func(name string) *v1alpha1.ChatRun {
			GinkgoHelper()
			run := newRun(namespace, name)
			Expect(store(ctx, plane.Client, run, nil)).To(Succeed())
			for i := range 3 {
				if third(i).Has(members.BucketOf(string(run.UID))) {
					total[name] = i
				}
			}
			return run
		}
		var one *v1alpha1.ChatRun
		for i := range stored {
			one = put(fmt.Sprintf("stored-%d", i))
		}
		var replicas []*replica
		sent := int64(0)
		for i := range 3 {
			shares := controller.NewShares(fmt.Sprintf("replica-%d", i), nil)
			shares.Set(third(i))
			replicas = append(replicas, start(shares))
			Expect(replicas[i].runs.Watched()).To(Equal(third(i)))
			sent += replicas[i].wire.runs.Load()
		}
		if filters {
			// Each comes as one of a share to one, and as an unfinished one to two.
			Expect(sent).To(BeEquivalentTo(3 * stored))
		} else {
			Expect(sent).To(BeEquivalentTo(6 * stored))
		}

		for i := range stored {
			put(fmt.Sprintf("new-%d", i))
		}
		for i, r := range replicas {
			Eventually(func(g Gomega) {
				names, err := r.names(ctx, namespace)
				g.Expect(err).NotTo(HaveOccurred())
				for name, owner := range total {
					g.Expect(names[name]).To(Equal(owner == i), "%s, of %d, at %d", name, owner, i)
				}
			}).Should(Succeed())
		}

		home := total[one.Name]
		other := (home + 1) % 3
		has := func(i int) func() (bool, error) {
			return func() (bool, error) {
				names, err := replicas[i].names(ctx, namespace)
				return names[one.Name], err
			}
		}
		Expect(setStatus(ctx, plane.Client, one, &v1alpha1.ChatRunStatus{Phase: v1alpha1.PhaseStreaming, Worker: fmt.Sprintf("replica-%d", other)})).To(Succeed())
		Eventually(has(other)).Should(BeTrue(), "its owner watches it")
		Expect(setStatus(ctx, plane.Client, one, succeeded(10))).To(Succeed())
		Eventually(has(other)).Should(BeFalse(), "it is over")
		Expect(has(home)()).To(BeTrue())
		Expect(has((home + 2) % 3)()).To(BeFalse())

		// The shares turn round, at once and without a run that nobody has.
		for i, r := range replicas {
			r.shares.Set(third((i + 1) % 3))
		}
		for i, r := range replicas {
			Eventually(func(g Gomega) {
				g.Expect(r.runs.Watched()).To(Equal(third((i + 1) % 3)))
				names, err := r.names(ctx, namespace)
				g.Expect(err).NotTo(HaveOccurred())
				for name, owner := range total {
					g.Expect(names[name]).To(Equal(owner == (i+1)%3), "%s, of %d, at %d", name, owner, i)
				}
			}).Should(Succeed())
		}
		Expect(plane.Client.Delete(ctx, one)).To(Succeed())
		for i := range replicas {
			Eventually(has(i)).Should(BeFalse())
		}
	})

	It("sends finished runs to their shares alone", func(ctx SpecContext) {
		const stored = 60
		for i := range stored {
			Expect(store(ctx, plane.Client, newRun(namespace, fmt.Sprintf("run-%d", i)), succeeded(100))).To(Succeed())
		}
		sent, held := int64(0), 0
		for i := range 3 {
			shares := controller.NewShares(fmt.Sprintf("replica-%d", i), nil)
			shares.Set(third(i))
			r := start(shares)
			names, err := r.names(ctx, namespace)
			Expect(err).NotTo(HaveOccurred())
			held += len(names)
			sent += r.wire.runs.Load()
		}
		Expect(held).To(Equal(stored))
		if filters {
			Expect(sent).To(BeEquivalentTo(stored))
		} else {
			Expect(sent).To(BeEquivalentTo(3 * stored))
		}
	})

	It("leaves no run unwatched while replicas come and go", func(ctx SpecContext) {
		f := newFleet(start)
		stop := f.lookAt(ctx, namespace)
		defer stop()
		f.join()
		for i := range 120 {
			Expect(store(ctx, plane.Client, newRun(namespace, fmt.Sprintf("run-%d", i)), nil)).To(Succeed())
			switch i {
			case 20, 40, 80:
				f.join()
			case 60, 100:
				f.leave()
			}
		}
		Eventually(func(g Gomega) {
			f.mu.Lock()
			defer f.mu.Unlock()
			g.Expect(f.seen).To(HaveLen(120))
			g.Expect(f.replicas).To(HaveLen(2))
			for name, since := range f.seen {
				g.Expect(since).To(BeZero(), name)
			}
		}).Should(Succeed())
		stop()
		Expect(f.looks).To(BeNumerically(">", 10))
		Expect(f.missing).To(BeEmpty())
	})
}

// fleet are replicas that come and go as members do: each publishes what it watches,
// and one that leaves stays until nobody needs it.
type fleet struct {
	start func(*controller.Shares) *replica

	mu       sync.Mutex
	next     int
	live     []string
	replicas map[string]*replica
	// seen says of the runs that any of them ever had since when none has them; zero if
	// one does.
	seen map[string]time.Time
	// missing are those that none had for longer than an event is under way.
	missing []string
	looks   int
}

// underWay is far more than an event takes from one replica, which had it and left,
// to the next.
const underWay = 3 * time.Second

func newFleet(start func(*controller.Shares) *replica) *fleet {
	return &fleet{start: start, replicas: map[string]*replica{}, seen: map[string]time.Time{}}
}

func (f *fleet) join() {
	GinkgoHelper()
	f.mu.Lock()
	f.next++
	name := fmt.Sprintf("replica-%d", f.next)
	shares := controller.NewShares(name, nil)
	f.mu.Unlock()
	r := f.start(shares) // without a bucket, as nothing is known of the others
	f.mu.Lock()
	defer f.mu.Unlock()
	f.replicas[name] = r
	f.live = append(f.live, name)
}

// leave has the oldest one hand over.
func (f *fleet) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.live = f.live[1:]
}

// step is what each does when it hears of the others, all at a time here.
func (f *fleet) step() {
	if len(f.live) == 0 {
		return
	}
	var owners [members.NumBuckets]string
	for bucket := range owners {
		owners[bucket] = f.live[bucket%len(f.live)]
	}
	watched := map[string]members.Buckets{}
	for name, r := range f.replicas {
		watched[name] = r.runs.Watched()
	}
	for name, r := range f.replicas {
		share := members.Share(name, owners, watched[name], watched)
		r.shares.Set(share)
		if share == 0 && watched[name] != 0 {
			// It left, and has nothing to do any more.
			delete(f.replicas, name)
			go r.stop()
		}
	}
}

// look notes what all of them have.
func (f *fleet) look(ctx context.Context, namespace string) {
	now := map[string]bool{}
	for _, r := range f.replicas {
		names, err := r.names(ctx, namespace)
		if err != nil {
			f.missing = append(f.missing, err.Error())
			return
		}
		for name := range names {
			now[name] = true
		}
	}
	for name, since := range f.seen {
		switch {
		case now[name]:
		case since.IsZero():
			f.seen[name] = time.Now()
		case time.Since(since) > underWay:
			f.missing = append(f.missing, name)
		}
	}
	for name := range now {
		f.seen[name] = time.Time{}
	}
	f.looks++
}

// lookAt steps and looks all the time, until what it returns is called.
func (f *fleet) lookAt(ctx context.Context, namespace string) func() {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(10 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				f.mu.Lock()
				f.look(ctx, namespace)
				f.step()
				f.mu.Unlock()
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

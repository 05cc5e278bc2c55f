// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package actor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/test/bench/meter"
	"chatrun.dev/operator/test/harness"
)

// Cluster is how the load reaches the API server.
type Cluster struct {
	// Admin creates, watches and deletes; Manager writes statuses, with the manager's
	// own rights and its place in the API server's queues. Both are kubeconfigs.
	Admin, Manager string
}

// Runs are runs to be made.
type Runs struct {
	Namespace, Prefix string
	N                 int
	// Workers make them, as fast as they can, or PerSecond of them in all if that is
	// above 0, whatever becomes of those before.
	Workers   int
	PerSecond float64
	// Title asks for one.
	Title bool
	// Expire deletes each so many seconds after its end, if it is above 0.
	Expire int32
	// Quick has short waits before further attempts, and short patience with silence.
	Quick bool
}

// Floor is runs that no manager sees.
type Floor struct {
	Runs
	Like     string
	Finished bool
}

// ProviderName is the ChatProvider's of every namespace.
const ProviderName = "bench"

// Load makes runs, and watches what becomes of them.
type Load struct {
	admin, manager client.WithWatch
	direct         http.Client

	mu      sync.Mutex
	watches map[string]*watched
}

func newLoad() *Load {
	l := &Load{watches: map[string]*watched{}}
	l.direct.Transport = &http.Transport{MaxIdleConnsPerHost: idleConnections, DisableCompression: true}
	return l
}

// Connect reads the kubeconfigs.
func (l *Load) Connect(c Cluster, _ *None) (err error) {
	connect := func(kubeconfig string) (client.WithWatch, error) {
		config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
		if err != nil {
			return nil, err
		}
		config.QPS = -1
		return client.NewWithWatch(config, client.Options{Scheme: harness.Scheme()})
	}
	if l.admin, err = connect(c.Admin); err != nil {
		return err
	}
	l.manager, err = connect(c.Manager)
	return err
}

// Prompt is the question of a run, and by that the key of the provider's ledger.
func Prompt(name string) string { return "question of " + name }

// run is the n-th.
func (r Runs) run(n int) *v1alpha1.ChatRun {
	name := fmt.Sprintf("%s-%d", r.Prefix, n)
	run := &v1alpha1.ChatRun{
		ObjectMeta: metav1.ObjectMeta{Namespace: r.Namespace, Name: name},
		Spec: v1alpha1.ChatRunSpec{
			ProviderRef: v1alpha1.ProviderReference{Name: ProviderName}, Prompt: Prompt(name),
			Title: &v1alpha1.Title{Policy: v1alpha1.TitleNone},
		},
	}
	if r.Title {
		run.Spec.Title = nil
	}
	if r.Expire > 0 {
		run.Spec.TTLSecondsAfterFinished = &r.Expire
	}
	if r.Quick {
		run.Spec.RetryPolicy = &v1alpha1.RetryPolicy{MaxAttempts: new(int32(0)), InitialDelayMs: new(int64(200)), MaxDelayMs: new(int64(2000))}
		run.Spec.StreamIdleTimeoutSeconds = new(int32(2))
	}
	return run
}

// Make makes runs, and returns how long that took.
func (l *Load) Make(r Runs, took *time.Duration) error {
	began := time.Now()
	var tick <-chan time.Time
	if r.PerSecond > 0 {
		ticker := time.NewTicker(time.Duration(float64(time.Second) / r.PerSecond))
		defer ticker.Stop()
		tick = ticker.C
	}
	err := each(r.N, r.Workers, tick, func(n int) error { return l.admin.Create(context.Background(), r.run(n)) })
	*took = time.Since(began)
	return err
}

// each does something n times with so many workers, one a tick if there are any. It
// ends with the first error.
func each(n, workers int, tick <-chan time.Time, do func(int) error) error {
	var failed atomic.Pointer[error]
	todo := make(chan int, n) // none who is paced waits for a worker
	var work sync.WaitGroup
	for range workers {
		work.Go(func() {
			for i := range todo {
				if failed.Load() != nil {
					continue
				}
				if err := do(i); err != nil {
					failed.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	for i := range n {
		if tick != nil {
			<-tick
		}
		todo <- i
	}
	close(todo)
	work.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

// Floor makes runs, and writes to each what the manager writes: the status of its
// attempt unless Finished asks for its end alone, and that of its end. It does nothing
// else, and returns how long it took. What the manager writes is known from the runs of
// another namespace, Like, that was watched.
func (l *Load) Floor(f Floor, took *time.Duration) error {
	like, err := l.watch(f.Like)
	if err != nil {
		return err
	}
	like.mu.Lock()
	started, succeeded := like.started, like.succeeded
	like.mu.Unlock()
	if started == nil || succeeded == nil {
		return errors.New("no run of a manager was seen in " + f.Like)
	}
	began := time.Now()
	err = each(f.N, f.Workers, nil, func(n int) error {
		run := f.run(n)
		if err := l.admin.Create(context.Background(), run); err != nil {
			return err
		}
		if !f.Finished {
			if err := l.write(run, started); err != nil {
				return err
			}
		}
		return l.write(run, succeeded)
	})
	*took = time.Since(began)
	return err
}

// write patches a status as the manager does, with the version that it was read at.
func (l *Load) write(run *v1alpha1.ChatRun, status *v1alpha1.ChatRunStatus) error {
	before := run.DeepCopy()
	run.Status = *status.DeepCopy()
	return l.manager.Status().Patch(context.Background(), run, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
}

// Listed is a bare client that lists all runs.
type Listed struct {
	N    int
	Took time.Duration
}

// List lists the runs of all namespaces once.
func (l *Load) List(_ None, listed *Listed) error {
	began := time.Now()
	var list v1alpha1.ChatRunList
	err := l.manager.List(context.Background(), &list)
	*listed = Listed{N: len(list.Items), Took: time.Since(began)}
	return err
}

// Clear deletes all runs of a namespace.
func (l *Load) Clear(namespace string, _ *None) error {
	return l.admin.DeleteAllOf(context.Background(), &v1alpha1.ChatRun{}, client.InNamespace(namespace))
}

// Idle is one run after another.
type Idle struct {
	Namespace, Prefix string
	N                 int
	// Stream and Provider are the URLs of the two, Model the script's.
	Stream, Provider, Model string
}

// Waits are in milliseconds, one a run: until the first token, and until the end.
type Waits struct{ First, Whole, DirectFirst, DirectWhole []float64 }

// OneByOne makes runs one after another, and before each a direct call to the
// provider. The namespace is watched.
func (l *Load) OneByOne(i Idle, w *Waits) error {
	for n := range i.N {
		first, whole, err := l.call(i, n)
		if err != nil {
			return fmt.Errorf("call %d: %w", n, err)
		}
		w.DirectFirst, w.DirectWhole = append(w.DirectFirst, first), append(w.DirectWhole, whole)
		if first, whole, err = l.apply(i, n); err != nil {
			return fmt.Errorf("run %d: %w", n, err)
		}
		w.First, w.Whole = append(w.First, first), append(w.Whole, whole)
	}
	return nil
}

// patience is for one answer.
const patience = time.Minute

// call asks the provider itself.
func (l *Load) call(i Idle, n int) (first, whole float64, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	began := meter.Monotonic()
	resp, err := ask(ctx, &l.direct, i.Provider, i.Model, fmt.Sprintf("direct %d", n)) //nolint:bodyclose // reading closes it
	if err != nil {
		return 0, 0, err
	}
	return reading(resp, began)
}

// apply makes a run, and reads it as curl does. Its end is what the watch tells.
func (l *Load) apply(i Idle, n int) (first, whole float64, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	run := Runs{Namespace: i.Namespace, Prefix: i.Prefix}.run(n)
	began := meter.Monotonic()
	if err := l.admin.Create(ctx, run); err != nil {
		return 0, 0, err
	}
	// The manager may not have heard of it yet.
	url := harness.StreamURL(i.Stream, i.Namespace, run.Name) + "?wait=30s"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return 0, 0, err
	}
	resp, err := l.direct.Do(req) //nolint:bodyclose // reading closes it
	if err != nil {
		return 0, 0, err
	}
	if first, _, err = reading(resp, began); err != nil {
		return 0, 0, err
	}
	end, err := l.endOf(ctx, i.Namespace, run.Name)
	return first, milliseconds(end - began), err
}

// reading reads an answer to its end.
func reading(resp *http.Response, began time.Duration) (first, whole float64, err error) {
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return 0, 0, errors.New(resp.Status)
	}
	var found stamps
	buf := make([]byte, readBuffer)
	for {
		n, err := resp.Body.Read(buf)
		found.next(buf[:n], func(time.Duration) {
			if first == 0 {
				first = milliseconds(meter.Monotonic() - began)
			}
		})
		if err != nil {
			break
		}
	}
	if first == 0 {
		return 0, 0, errors.New("the answer had no part")
	}
	return first, milliseconds(meter.Monotonic() - began), nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// Attempts are how many each run's status counted when it was last seen, by its
// question, the key of the provider's ledger.
func (l *Load) Attempts(namespace string, attempts *map[string]int) error {
	w, err := l.watch(namespace)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	*attempts = maps.Clone(w.attempts)
	return nil
}

// unfinished names runs that are not at their end, the first few.
func (w *watched) unfinished() []string {
	var names []string
	for name, phase := range w.phases {
		if !slices.Contains(terminal, phase) {
			names = append(names, fmt.Sprintf("%s: %s", name, phase))
		}
	}
	slices.Sort(names)
	return names[:min(len(names), 5)]
}

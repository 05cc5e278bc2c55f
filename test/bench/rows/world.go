// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Package rows is the benchmark: what is measured, how, and against which floor. Each
// scenario has a manager of its own, and all of them share one control plane.
package rows

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/test/bench/actor"
	"chatrun.dev/operator/test/harness"
)

const (
	// patience is for what a machine does that is busy; nothing is measured by it.
	patience = 3 * time.Minute
	// readyPoll is how often the manager is asked whether it is ready: short against
	// what a start takes.
	readyPoll = 5 * time.Millisecond
	// deleters delete runs at a time, between two scenarios.
	deleters = "16"
	// secretKey is the key of the provider's Secret, and opens nothing.
	secretKey = "key"
)

// World is all that takes part but the manager.
type World struct {
	Scale Scale
	// Say tells whoever waits what is being done.
	Say func(format string, args ...any)
	// Profiles is where profiles of the manager are kept; empty keeps none.
	Profiles string

	plane                                 *harness.ControlPlane
	provider, copier, bare, readers, load *actor.Actor
	dir, binary, providerURL, copierAddr  string
	stops                                 []func() error
}

// NewWorld starts it.
func NewWorld(ctx context.Context, scale Scale, say func(string, ...any)) (_ *World, err error) {
	w := &World{Scale: scale, Say: say}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Stop())
		}
	}()
	if w.dir, err = os.MkdirTemp("", "chatrun-bench-"); err != nil {
		return nil, err
	}
	w.stops = append(w.stops, func() error { return os.RemoveAll(w.dir) })
	if w.binary, err = harness.BuildManager(ctx, w.dir); err != nil {
		return nil, err
	}
	if w.plane, err = harness.StartControlPlane(ctx, harness.Flag{Name: "delete-collection-workers", Value: deleters}); err != nil {
		return nil, err
	}
	w.stops = append(w.stops, w.plane.Stop)
	for role, at := range map[actor.Role]**actor.Actor{
		actor.RoleProvider: &w.provider, actor.RoleCopier: &w.copier, actor.RoleBare: &w.bare,
		actor.RoleReaders: &w.readers, actor.RoleLoad: &w.load,
	} {
		if *at, err = actor.Start(context.WithoutCancel(ctx), role); err != nil {
			return nil, err
		}
		w.stops = append(w.stops, func() error { (*at).Stop(); return nil })
	}
	if w.providerURL, err = actor.Call[string](ctx, w.provider, "Listen", actor.None{}); err != nil {
		return nil, err
	}
	if w.copierAddr, err = actor.Call[string](ctx, w.copier, "Listen", w.providerURL); err != nil {
		return nil, err
	}
	admin, err := w.plane.AdminKubeconfig()
	if err != nil {
		return nil, err
	}
	return w, actor.Do(ctx, w.load, "Connect", actor.Cluster{Admin: admin, Manager: w.plane.ManagerKubeconfig})
}

// freshCopier starts the copier anew, so that its memory begins at nothing.
func (w *World) freshCopier(ctx context.Context) (err error) {
	w.copier.Stop()
	if w.copier, err = actor.Start(context.WithoutCancel(ctx), actor.RoleCopier); err != nil {
		return err
	}
	w.copierAddr, err = actor.Call[string](ctx, w.copier, "Listen", w.providerURL)
	return err
}

// Stop ends all, the last first.
func (w *World) Stop() error {
	var failed error
	for _, stop := range slices.Backward(w.stops) {
		failed = errors.Join(failed, stop())
	}
	w.stops = nil
	return failed
}

// place is a namespace with its provider.
type place struct {
	world     *World
	namespace string
	model     string
}

// place makes a namespace whose provider answers by a script. secret asks for
// credentials.
func (w *World) place(ctx context.Context, s actor.Script, secret bool) (*place, error) {
	if err := actor.Do(ctx, w.provider, "Learn", s); err != nil {
		return nil, err
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "bench-"}}
	if err := w.plane.Client.Create(ctx, ns); err != nil {
		return nil, err
	}
	if err := w.plane.AllowReplicas(ctx, ns.Name); err != nil {
		return nil, err
	}
	p := &v1alpha1.ChatProvider{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns.Name, Name: actor.ProviderName},
		Spec:       v1alpha1.ChatProviderSpec{Type: v1alpha1.ProviderOpenAI, BaseURL: w.providerURL + "/v1", DefaultModel: s.Name},
	}
	if secret {
		key := &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns.Name, Name: actor.ProviderName},
			StringData: map[string]string{secretKey: "opens-nothing"},
		}
		if err := w.plane.Client.Create(ctx, key); err != nil {
			return nil, err
		}
		p.Spec.Credentials = &v1alpha1.Credentials{SecretKeyRef: v1alpha1.SecretKeyReference{Name: key.Name, Key: secretKey}}
	}
	if err := w.plane.Client.Create(ctx, p); err != nil {
		return nil, err
	}
	return &place{world: w, namespace: ns.Name, model: s.Name}, actor.Do(ctx, w.load, "Watch", ns.Name)
}

// clear deletes all runs, and waits until they are gone.
func (p *place) clear(ctx context.Context) error {
	if err := actor.Do(ctx, p.world.load, "Clear", p.namespace); err != nil {
		return err
	}
	_, err := actor.Call[actor.Seen](ctx, p.world.load, "Await", actor.Wish{Namespace: p.namespace, Gone: true, Within: patience})
	return err
}

// await waits for runs.
func (p *place) await(ctx context.Context, streaming, succeeded int) error {
	_, err := actor.Call[actor.Seen](ctx, p.world.load, "Await", actor.Wish{
		Namespace: p.namespace, Streaming: streaming, Succeeded: succeeded, Within: patience,
	})
	return err
}

// runs are n runs of a place.
func (p *place) runs(n int) actor.Runs {
	return actor.Runs{Namespace: p.namespace, Prefix: "run", N: n, Workers: p.world.Scale.Workers}
}

// paths are the streams of the first n runs.
func (p *place) paths(n int) []string {
	paths := make([]string, n)
	for i := range paths {
		paths[i] = p.path("run", i)
	}
	return paths
}

// path is the stream of the n-th run of a prefix.
func (p *place) path(prefix string, n int) string {
	return harness.StreamURL("", p.namespace, fmt.Sprintf("%s-%d", prefix, n))
}

// manager is the one that is measured.
type manager struct {
	*harness.Process
	metrics, profiles string
	// ready is how long it took from the start of the process.
	ready time.Duration
}

// manager starts one, whose Lease is in the namespace of a place, and waits until it is
// ready. It bounds neither readers nor attempts: they are what is measured.
func (w *World) manager(ctx context.Context, leases *place) (*manager, error) {
	var addresses [3]string
	for i := range addresses {
		var err error
		if addresses[i], err = harness.FreeAddress(); err != nil {
			return nil, err
		}
	}
	began := time.Now()
	p, err := harness.StartProcess(w.binary, w.plane.ManagerKubeconfig, leases.namespace, "bench", filepath.Join(w.dir, "manager.log"),
		"--metrics-bind-address", addresses[0], "--health-probe-bind-address", addresses[1], "--pprof-bind-address", addresses[2],
		"--max-concurrent-streams", "0", "--stream-max-readers", "0", "--stream-max-readers-per-run", "0")
	if err != nil {
		return nil, err
	}
	m := &manager{Process: p, metrics: "http://" + addresses[0] + "/metrics", profiles: "http://" + addresses[2] + "/debug/pprof/"}
	if err := m.untilReady(ctx, "http://"+addresses[1]+"/readyz"); err != nil {
		return nil, errors.Join(err, p.Kill(), w.tail())
	}
	m.ready = time.Since(began)
	return m, nil
}

func (m *manager) untilReady(ctx context.Context, url string) error {
	tick, late := time.NewTicker(readyPoll), time.After(patience)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-m.Done():
			return errors.New("the manager ended while it started")
		case <-late:
			return fmt.Errorf("the manager was not ready within %s", patience)
		case <-tick.C:
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			continue // it does not listen yet
		}
		_ = resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return nil
		}
	}
}

// logTail is how much of the manager's log is shown of one that does not start.
const logTail = 4 << 10

// tail is the end of the manager's log as an error.
func (w *World) tail() error {
	raw, err := os.ReadFile(filepath.Join(w.dir, "manager.log"))
	if err != nil {
		return err
	}
	return fmt.Errorf("the end of its log: %s", raw[max(0, len(raw)-logTail):])
}

// addr is where the streams are served.
func (m *manager) addr() string { return m.Stream[len("http://"):] }

// keep saves a profile of the manager, if profiles are wanted.
func (w *World) keep(ctx context.Context, m *manager, kind, name string) error {
	if w.Profiles == "" {
		return nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.profiles+kind, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", kind, resp.Status)
	}
	if err := os.MkdirAll(w.Profiles, 0o755); err != nil {
		return err
	}
	file, err := os.Create(filepath.Join(w.Profiles, name+".pprof"))
	if err != nil {
		return err
	}
	_, err = io.Copy(file, resp.Body)
	return errors.Join(err, file.Close())
}

// idle waits until the provider has no stream under way, so that what was measured
// before does not disturb what comes.
func (w *World) idle(ctx context.Context) error {
	tick, late := time.NewTicker(readyPoll), time.After(patience)
	defer tick.Stop()
	for {
		live, err := actor.Call[int](ctx, w.provider, "Live", actor.None{})
		if err != nil || live == 0 {
			return err
		}
		select {
		case <-late:
			return fmt.Errorf("the provider has %d streams still", live)
		case <-tick.C:
		}
	}
}

// pause lets time pass.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

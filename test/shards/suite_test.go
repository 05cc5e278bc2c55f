// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Package shards_test lets replicas list and watch their shares of the runs from a
// real API server: one that filters by shard, and one that does not.
package shards_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/controller"
	"chatrun.dev/operator/internal/members"
	"chatrun.dev/operator/test/harness"
)

// patience is for what should take a moment, on a machine that is busy.
const patience = 30 * time.Second

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard()) // it complains if nobody says
	os.Exit(m.Run())
}

func TestShards(t *testing.T) {
	SetDefaultEventuallyTimeout(patience)
	RegisterFailHandler(Fail)
	RunSpecs(t, "Shards")
}

// startPlane starts a control plane whose API server filters by shard, or not.
func startPlane(ctx context.Context, filters bool) (*harness.ControlPlane, error) {
	return harness.StartControlPlane(ctx, harness.Flag{Name: "feature-gates", Value: fmt.Sprintf("ShardedListAndWatch=%v", filters)})
}

// wire counts what comes from the API server about runs.
type wire struct {
	next http.RoundTripper
	// bytes are those of the bodies, runs how many runs were in them.
	bytes, runs atomic.Int64
}

// RoundTrip implements http.RoundTripper.
func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := w.next.RoundTrip(r)
	if err == nil && strings.HasSuffix(r.URL.Path, "/chatruns") {
		answer.Body = &counted{ReadCloser: answer.Body, wire: w}
	}
	return answer, err
}

// counted is a body that is counted as it is read.
type counted struct {
	io.ReadCloser
	wire *wire
	// rest is the end of what was read, in which a mark may be cut.
	rest []byte
}

// mark stands once in every run.
var mark = []byte(`"kind":"ChatRun",`)

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	c.wire.bytes.Add(int64(n))
	text := append(c.rest, b[:n]...)
	c.wire.runs.Add(int64(bytes.Count(text, mark)))
	// Less than a mark, so that none is counted twice.
	c.rest = bytes.Clone(text[max(0, len(text)-len(mark)+1):])
	return n, err
}

// replica is the cache of one.
type replica struct {
	cache.Cache
	wire   *wire
	shares *controller.Shares
	runs   *controller.ShardedRuns
	stop   func()
}

// newReplica starts one with a share; without shares it holds all runs, as a
// manager does without --shard-runs.
func newReplica(ctx context.Context, cfg *rest.Config, shares *controller.Shares) (*replica, error) {
	r := &replica{wire: &wire{}, shares: shares}
	cfg = rest.CopyConfig(cfg)
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper {
		r.wire.next = next
		return r.wire
	})
	o := controller.Slim(ctrl.Options{})
	if shares != nil {
		r.runs = controller.NewShardedRuns(shares, logr.Discard())
		o = controller.Sharded(o, r.runs)
	}
	o.Cache.Scheme = harness.Scheme()
	var err error
	if r.Cache, err = cache.New(cfg, o.Cache); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = r.Start(ctx) // it ends with ctx, without an error
	}()
	r.stop = func() {
		cancel()
		<-done
	}
	if _, err := r.GetInformer(ctx, &v1alpha1.ChatRun{}); err != nil {
		return nil, err
	}
	if !r.WaitForCacheSync(ctx) {
		return nil, context.Cause(ctx)
	}
	return r, nil
}

// names returns the runs of a namespace that the cache has.
func (r *replica) names(ctx context.Context, namespace string) (map[string]bool, error) {
	var list v1alpha1.ChatRunList
	if err := r.List(ctx, &list, client.InNamespace(namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for i := range list.Items {
		names[list.Items[i].Name] = true
	}
	return names, nil
}

// newNamespace makes a namespace.
func newNamespace(ctx context.Context, c client.Client) (string, error) {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "shards-"}}
	err := c.Create(ctx, ns)
	return ns.Name, err
}

// newRun is a run that nobody carries out.
func newRun(namespace, name string) *v1alpha1.ChatRun {
	return &v1alpha1.ChatRun{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: v1alpha1.ChatRunSpec{
			ProviderRef: v1alpha1.ProviderReference{Name: "none"}, Model: "m", Prompt: "Say something about " + strings.Repeat(name+" ", 20),
		},
	}
}

// store creates a run, and writes its status if it is to have one.
func store(ctx context.Context, c client.Client, run *v1alpha1.ChatRun, status *v1alpha1.ChatRunStatus) error {
	if err := c.Create(ctx, run); err != nil || status == nil {
		return err
	}
	return setStatus(ctx, c, run, status)
}

func setStatus(ctx context.Context, c client.Client, run *v1alpha1.ChatRun, status *v1alpha1.ChatRunStatus) error {
	base := run.DeepCopy()
	run.Status = *status.DeepCopy()
	return c.Status().Patch(ctx, run, client.MergeFrom(base))
}

// succeeded is the status of a run that ended, with an answer of some bytes.
func succeeded(size int) *v1alpha1.ChatRunStatus {
	now := metav1.NewMicroTime(time.Now())
	status := &v1alpha1.ChatRunStatus{
		Phase: v1alpha1.PhaseSucceeded, Attempt: new(int32(1)), Worker: "chatrun-manager-6d4b75cb6d-hwqmx", Model: "m", StartTime: &now, CompletionTime: &now,
		Output: &v1alpha1.Output{Text: strings.Repeat("y", size), Bytes: new(int64(size))},
	}
	for _, kind := range []string{v1alpha1.ConditionSucceeded, v1alpha1.ConditionFinished} {
		status.Conditions = append(status.Conditions, metav1.Condition{
			Type: kind, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonCompleted, Message: "the answer is complete", LastTransitionTime: metav1.NewTime(now.Time),
		})
	}
	return status
}

// third is the share of one of three.
func third(i int) members.Buckets {
	share := members.Buckets(0)
	for bucket := i; bucket < members.NumBuckets; bucket += 3 {
		share = share.With(bucket)
	}
	return share
}

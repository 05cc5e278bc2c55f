// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/members"
	"chatrun.dev/operator/internal/streamer"
)

// counting is a reader that counts.
type counting struct {
	client.Reader
	gets int
}

func (c *counting) Get(ctx context.Context, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
	c.gets++
	return c.Reader.Get(ctx, key, o, opts...)
}

// TestSourceAsksSparingly: the API server is asked for what the cache does not
// have, once a second for one name, and whoever waits is woken by a creation.
func TestSourceAsksSparingly(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		cache := fake.NewClientBuilder().WithScheme(scheme).Build()
		live := &counting{Reader: fake.NewClientBuilder().WithScheme(scheme).Build()}
		s := newSource(cache, live, members.Alone("me"))
		find := func(name string) error {
			_, err := s.Find(t.Context(), "ns", name)
			return err
		}
		for range 10 {
			if err := find("hello"); !errors.Is(err, streamer.ErrNotFound) {
				t.Fatal(err)
			}
		}
		if live.gets != 1 {
			t.Errorf("ten looks cost %d requests", live.gets)
		}
		if err := find("other"); !errors.Is(err, streamer.ErrNotFound) || live.gets != 2 {
			t.Errorf("another name: %v, %d requests", err, live.gets)
		}
		<-time.After(2 * missingTTL)
		if err := find("hello"); !errors.Is(err, streamer.ErrNotFound) || live.gets != 3 {
			t.Errorf("a while later: %v, %d requests", err, live.gets)
		}

		woken, stop := s.Created("ns", "hello")
		run := &v1alpha1.ChatRun{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "hello", UID: "1"}}
		s.created(&v1alpha1.ChatRun{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "another"}})
		if len(woken) != 0 {
			t.Error("woken by another run")
		}
		if err := cache.Create(t.Context(), run); err != nil {
			t.Fatal(err)
		}
		s.created(run)
		s.created(run) // nobody has to look in between
		if <-woken; find("hello") != nil {
			t.Error("what was created is not found")
		}
		if stop(); len(s.waiting) != 0 {
			t.Errorf("%d still wait", len(s.waiting))
		}
	})
}

// chatty is a reader that logs what it reads, as client-go does at high levels.
type chatty struct{ client.Reader }

func (chatty) Get(ctx context.Context, _ client.ObjectKey, _ client.Object, _ ...client.GetOption) error {
	logr.FromContextOrDiscard(ctx).V(8).Info("Response Body", "body", "the key")
	return errors.New("no")
}

// TestKeysAreNotLogged at any level, by whatever reads them.
func TestKeysAreNotLogged(t *testing.T) {
	lines := 0
	logger := funcr.New(func(string, string) { lines++ }, funcr.Options{Verbosity: 10})
	p := ready()
	p.Spec.Credentials = &v1alpha1.Credentials{SecretKeyRef: v1alpha1.SecretKeyReference{Name: "s", Key: "k"}}
	if _, _, err := readKey(logr.NewContext(t.Context(), logger), chatty{}, p); err == nil || lines != 0 {
		t.Errorf("%v, %d lines", err, lines)
	}
}

// TestSourceSaysWhereToRead: at the owner, as long as it lives, then at the replica
// that the run falls to; of a run that is finished nobody has to be asked.
func TestSourceSaysWhereToRead(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	limited := &v1alpha1.ChatProvider{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "fake", UID: "provider"},
		Spec:       v1alpha1.ChatProviderSpec{Limits: &v1alpha1.ProviderLimits{MaxConcurrentStreams: new(int32(1))}},
	}
	const live, draining = members.Live, members.Draining
	both := map[string]members.State{"me": live, "b": live}
	other := func(name string) runOption { return func(run *v1alpha1.ChatRun) { run.Status.Worker = name } }
	for _, tc := range []struct {
		name    string
		run     *v1alpha1.ChatRun
		members map[string]members.State
		want    string
	}{
		{"ours", newRun(streaming(1)), both, ""},
		{"ours, and it waits", newRun(waiting(1, time.Minute)), both, ""},
		{"ours, and we are not held", newRun(streaming(1)), map[string]members.State{"b": live}, ""},
		{"another's", newRun(streaming(1), other("b")), both, "b"},
		{"another's, and it waits", newRun(waiting(1, time.Minute), other("b")), both, "b"},
		{"of one that drains, and streams it", newRun(streaming(1), other("b")), map[string]members.State{"me": live, "b": draining}, "b"},
		{"of one that drains, and it waits", newRun(waiting(1, time.Minute), other("b")), map[string]members.State{"c": live, "b": draining}, "c"},
		{"of one that is gone, and it falls to us", newRun(streaming(1), other("b")), map[string]members.State{"me": live}, ""},
		{"of one that is gone, and it falls to another", newRun(streaming(1), other("b")), map[string]members.State{"c": live}, "c"},
		{"nobody's, and it falls to another", newRun(), map[string]members.State{"c": live}, "c"},
		{"nobody's, and there is nobody", newRun(), nil, ""},
		{"finished by another", newRun(ended(succeed, ""), other("b")), both, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			objects := fake.NewClientBuilder().WithScheme(scheme).WithObjects(tc.run, limited).Build()
			view, err := newSource(objects, objects, members.Fixed("me", tc.members)).Find(t.Context(), "ns", "hello")
			if err != nil || view.Owner != tc.want {
				t.Errorf("read at %q, %v; want %q", view.Owner, err, tc.want)
			}
		})
	}
}

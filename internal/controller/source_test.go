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
		s := newSource(cache, live)
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

// TestSourceOwner: of a run that is finished there is no owner to ask.
func TestSourceOwner(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	waiting := &v1alpha1.ChatRun{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "waiting"}}
	over := waiting.DeepCopy()
	over.Name = "over"
	over.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionFinished, Status: metav1.ConditionTrue}}
	objects := fake.NewClientBuilder().WithScheme(scheme).WithObjects(waiting, over).Build()
	s := newSource(objects, objects)
	owner := func(name string) string {
		view, err := s.Find(t.Context(), "ns", name)
		if err != nil {
			t.Fatal(err)
		}
		return view.Owner
	}
	if got := owner("waiting"); got != "" {
		t.Errorf("without others: %q", got)
	}
	s.Owner = func(run *v1alpha1.ChatRun) string { return "of " + run.Name }
	if got := owner("waiting"); got != "of waiting" {
		t.Errorf("waiting: %q", got)
	}
	if got := owner("over"); got != "" {
		t.Errorf("over: %q", got)
	}
}

// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/streamer"
)

// slow is an API server that takes a second for each answer, and counts.
type slow struct {
	client.Reader
	mu   sync.Mutex
	gets int
	err  error
}

func (s *slow) Get(ctx context.Context, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
	s.mu.Lock()
	s.gets++
	err := s.err
	s.mu.Unlock()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Second):
	}
	if err != nil {
		return err
	}
	return s.Reader.Get(ctx, key, o, opts...)
}

func (s *slow) take() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.gets
	s.gets = 0
	return n
}

func server(t *testing.T, objects ...client.Object) *slow {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(v1alpha1.AddToScheme(scheme), corev1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	return &slow{Reader: fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).Build()}
}

func TestTextsAreShared(t *testing.T) {
	long := strings.Repeat(inflating, 2000)
	run, object := keptElsewhere(newRun(), long)
	synctest.Test(t, func(t *testing.T) {
		api := server(t, run, object)
		texts := newTexts(api)
		var readers sync.WaitGroup
		releases := make(chan func(), 100)
		for i := range 100 {
			readers.Go(func() {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if i == 0 {
					// The first one goes away while it is read; nobody else suffers.
					time.AfterFunc(time.Millisecond, cancel)
				}
				text, release, err := texts.load(ctx, runOf(run), len(long))
				switch {
				case i == 0 && !errors.Is(err, context.Canceled):
					t.Errorf("the one that went away: %v", err)
				case i > 0 && (err != nil || text != long):
					t.Errorf("reader %d: %v, %d bytes", i, err, len(text))
				case i > 0:
					releases <- release
				}
			})
		}
		readers.Wait()
		if n := api.take(); n != 2 {
			t.Errorf("a hundred readers cost %d requests, want one for the run and one for the text", n)
		}
		for range 99 {
			release := <-releases
			release()
			release()
		}
		// A moment later it is still there, and then it is not.
		<-time.After(textLinger - time.Second)
		_, release, err := texts.load(t.Context(), runOf(run), 20_000)
		if err != nil || api.take() != 0 {
			t.Errorf("%v, or it was read again", err)
		}
		release()
		<-time.After(textLinger + time.Second)
		synctest.Wait()
		if len(texts.byUID) != 0 || texts.bytes != 0 {
			t.Errorf("%d texts of %d bytes are left", len(texts.byUID), texts.bytes)
		}
	})
}

func TestTextsThatFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		run, object := keptElsewhere(newRun(), strings.Repeat("x", 20_000))
		api := server(t, run, object)
		api.err = errors.New("etcd has no leader")
		texts := newTexts(api)
		if _, _, err := texts.load(t.Context(), runOf(run), 20_000); err == nil {
			t.Fatal("no error")
		}
		api.err = nil
		if text, release, err := texts.load(t.Context(), runOf(run), 20_000); err != nil || len(text) != 20_000 {
			t.Errorf("after an error: %v", err)
		} else {
			release()
		}
		other := runOf(run)
		other.UID = "another"
		if _, _, err := texts.load(t.Context(), other, 1); !errors.Is(err, streamer.ErrNotFound) {
			t.Errorf("a run of another UID: %v", err)
		}
		<-time.After(time.Minute)
		synctest.Wait()
		if len(texts.byUID) != 0 || texts.bytes != 0 {
			t.Errorf("%d texts of %d bytes are left", len(texts.byUID), texts.bytes)
		}
	})
}

// TestTextsAreBounded: what is held for readers has an end, for one namespace as
// well, and what nobody reads makes room.
func TestTextsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		texts := newTexts(server(t))
		var ends []context.CancelFunc
		var readers sync.WaitGroup
		read := func(namespace string, n int) {
			for i := range n {
				ctx, cancel := context.WithCancel(t.Context())
				ends = append(ends, cancel)
				readers.Go(func() {
					_, _, _ = texts.load(ctx, streamer.Run{UID: fmt.Sprint(namespace, i), Namespace: namespace, Name: "x"}, v1alpha1.MaxStoredBytes)
				})
			}
			synctest.Wait()
		}
		busy := func(namespace string, bytes int) bool {
			_, _, err := texts.load(t.Context(), streamer.Run{UID: "more", Namespace: namespace, Name: "x"}, bytes)
			return errors.Is(err, streamer.ErrBusy)
		}
		read("a", maxTextBytesOfOne/v1alpha1.MaxStoredBytes)
		if !busy("a", v1alpha1.MaxStoredBytes) {
			t.Error("one namespace may take more than its share")
		}
		read("b", (maxTextBytes-maxTextBytesOfOne)/v1alpha1.MaxStoredBytes+1)
		if !busy("c", v1alpha1.MaxStoredBytes) {
			t.Error("all may take more than there is")
		}
		for _, end := range ends {
			end()
		}
		readers.Wait()
		if !busy("c", v1alpha1.MaxStoredBytes) {
			t.Error("what is still being read takes no memory")
		}
		<-time.After(2 * time.Second)
		synctest.Wait()
		if busy("c", v1alpha1.MaxStoredBytes) {
			t.Error("what nobody reads makes no room")
		}
		<-time.After(time.Minute)
		synctest.Wait()
		if len(texts.byUID) != 0 || texts.bytes != 0 || len(texts.namespaces) != 0 {
			t.Errorf("%d bytes are left, %v", texts.bytes, texts.namespaces)
		}
	})
}

// TestManyShortTexts: as many are read at once as fit, not as would if all were
// long.
func TestManyShortTexts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const many = 2000
		objects := make([]client.Object, many)
		runs := make([]*v1alpha1.ChatRun, many)
		for i := range many {
			runs[i] = newRun(named(fmt.Sprint("run-", i)), ended(succeed, ""))
			objects[i] = runs[i].DeepCopy()
		}
		texts := newTexts(server(t, objects...))
		var readers sync.WaitGroup
		for _, run := range runs {
			readers.Go(func() {
				text, release, err := texts.load(t.Context(), runOf(run), keptBytes(run.Status.Output))
				if err != nil || text != "Hello" {
					t.Errorf("%s: %q, %v", run.Name, text, err)
					return
				}
				release()
			})
		}
		readers.Wait()
		<-time.After(time.Minute)
		synctest.Wait()
	})
}

// TestAbandonedTextIsForgotten also if it is read, or cannot be, only after
// everybody's patience was over.
func TestAbandonedTextIsForgotten(t *testing.T) {
	for name, takes := range map[string]time.Duration{"read": textLinger + 2*time.Second, "not read": time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			run := newRun(ended(succeed, ""))
			texts := newTexts(slower{server(t, run).Reader, takes})
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel)
			if _, _, err := texts.load(ctx, runOf(run), 5); !errors.Is(err, context.Canceled) {
				t.Errorf("%s: error %v", name, err)
			}
			<-time.After(textLinger + time.Millisecond)
			synctest.Wait()
			if _, bytes := texts.holds(); bytes != 5 {
				t.Errorf("%s: what is being read takes %d bytes", name, bytes)
			}
			<-time.After(2 * textTimeout)
			synctest.Wait()
			if n, bytes := texts.holds(); n != 0 || bytes != 0 {
				t.Errorf("%s: %d texts of %d bytes are left", name, n, bytes)
			}
		})
	}
}

// holds returns how many texts are held, and what they take.
func (t *texts) holds() (n, bytes int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byUID), t.bytes
}

// slower is an API server that takes its time, as long as anybody waits.
type slower struct {
	client.Reader
	takes time.Duration
}

func (s slower) Get(ctx context.Context, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(s.takes):
		return s.Reader.Get(ctx, key, o, opts...)
	}
}

// TestOneNamespaceFlushesItsOwn: what it has too much of costs no other a text.
func TestOneNamespaceFlushesItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		run := newRun(ended(succeed, ""))
		texts := newTexts(server(t, run))
		_, release, err := texts.load(t.Context(), runOf(run), 5)
		if err != nil {
			t.Fatal(err)
		}
		release()
		var readers sync.WaitGroup
		for i := range 2 {
			readers.Go(func() {
				_, _, err := texts.load(t.Context(), streamer.Run{UID: fmt.Sprint(i), Namespace: "greedy", Name: "x"}, maxTextBytesOfOne-i)
				if i == 1 && !errors.Is(err, streamer.ErrBusy) {
					t.Errorf("error %v", err)
				}
			})
			synctest.Wait()
		}
		// The other's, and the one that is being read.
		if n, _ := texts.holds(); n != 2 {
			t.Errorf("%d texts are held", n)
		}
		readers.Wait()
		<-time.After(time.Minute)
		synctest.Wait()
	})
}

func TestKeptText(t *testing.T) {
	long := strings.Repeat("x", 20_000)
	run, object := keptElsewhere(newRun(), long)
	secretRun, secret := keptElsewhere(newRun(stored("Secret")), "Hush")
	foreign := object.DeepCopyObject().(client.Object)
	foreign.SetOwnerReferences(nil)
	for _, tc := range []struct {
		name    string
		run     *v1alpha1.ChatRun
		objects []client.Object
		want    string
	}{
		{"short", newRun(ended(succeed, "")), nil, "Hello"},
		{"long", run, []client.Object{object}, long},
		{"in a Secret", secretRun, []client.Object{secret}, "Hush"},
		{"gone", run, nil, long[:v1alpha1.MaxInlineOutputBytes]},
		{"another's", run, []client.Object{foreign}, long[:v1alpha1.MaxInlineOutputBytes]},
		{"Secret gone", secretRun, nil, ""},
		{"not kept", newRun(stored("None"), ended(succeed, "")), nil, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			objects := []client.Object{tc.run.DeepCopy()}
			for _, o := range tc.objects {
				objects = append(objects, o.DeepCopyObject().(client.Object))
			}
			text, release, err := newTexts(server(t, objects...)).load(t.Context(), runOf(tc.run), keptBytes(tc.run.Status.Output))
			if err != nil || text != tc.want {
				t.Errorf("%s: %v, %d bytes", tc.name, err, len(text))
			}
			release()
			<-time.After(time.Minute)
		})
	}
}

// TestForsakenTextIsNotRead: as many are read at a time as may be, and those that
// were given up before their turn not at all.
func TestForsakenTextIsNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		run := newRun(ended(succeed, ""))
		api := server(t, run)
		texts := newTexts(api)
		ctx, cancel := context.WithCancel(t.Context())
		var readers sync.WaitGroup
		for i := range 3 * maxTextReads {
			readers.Go(func() {
				_, _, _ = texts.load(ctx, streamer.Run{UID: fmt.Sprint(i), Namespace: "ns", Name: "x"}, 5)
			})
		}
		synctest.Wait()
		if n := api.take(); n != maxTextReads {
			t.Errorf("%d are read at a time", n)
		}
		cancel()
		readers.Wait()
		<-time.After(time.Minute)
		synctest.Wait()
		if n := api.take(); n != 0 {
			t.Errorf("%d were read for nobody", n)
		}
		if n, bytes := texts.holds(); n != 0 || bytes != 0 {
			t.Errorf("%d texts of %d bytes are left", n, bytes)
		}
		text, release, err := texts.load(t.Context(), runOf(run), 5)
		if err != nil || text != "Hello" {
			t.Fatalf("%q, %v", text, err)
		}
		release()
		<-time.After(time.Minute)
		synctest.Wait()
	})
}

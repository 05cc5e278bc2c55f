// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/streamer"
)

const (
	// maxTextBytes bounds the answers of finished runs that are held for their
	// readers: some 300 of the longest, and thousands of ordinary ones.
	maxTextBytes = 256 << 20
	// maxTextBytesOfOne leaves a quarter to the other namespaces.
	maxTextBytesOfOne = maxTextBytes - maxTextBytes/4
	// textLinger is how long a text is held after its last reader went, so that
	// many who come one by one, or one who asks again and again, cost the API
	// server little.
	textLinger = 5 * time.Second
	// textTimeout bounds the reading of a text, which no single reader's patience
	// may end: others wait for the same.
	textTimeout = 10 * time.Second
	// maxTextReads bounds those that are under way, each of which brings the whole
	// run, up to some 1.5 MB, beside the text.
	maxTextReads = 64
)

// texts are the answers of finished runs that are being read, each read from the
// API server once and shared by its readers.
type texts struct {
	live client.Reader
	// reads are those under way.
	reads chan struct{}

	mu    sync.Mutex
	byUID map[string]*sharedText
	// bytes is what all of them take, one that is still being read as much as its
	// status tells; namespaces is the same by namespace.
	bytes      int
	namespaces map[string]int
}

// sharedText is one answer.
type sharedText struct {
	done chan struct{}
	// text and err are set when done is closed.
	text string
	err  error

	namespace string
	readers   int
	bytes     int
	linger    *time.Timer
}

func newTexts(live client.Reader) *texts {
	return &texts{live: live, reads: make(chan struct{}, maxTextReads), byUID: map[string]*sharedText{}, namespaces: map[string]int{}}
}

// keepsSome says whether anything is kept of a finished run's answer.
func keepsSome(run *v1alpha1.ChatRun) bool {
	return run.Status.Output != nil && storageOf(run) != v1alpha1.StorageNone
}

// keptBytes is how much is kept of an answer.
func keptBytes(out *v1alpha1.Output) int {
	return int(valueOr(out.StoredBytes, min(valueOr(out.Bytes, 0), v1alpha1.MaxInlineOutputBytes)))
}

// load returns the answer of a finished run, or what is kept of it: nothing if
// the object that kept it is gone. It has as many bytes as the status told.
// release is to be called when it is not needed any more.
func (t *texts) load(ctx context.Context, run streamer.Run, bytes int) (text string, release func(), err error) {
	s, err := t.join(ctx, run, bytes)
	if err != nil {
		return "", nil, err
	}
	select {
	case <-s.done:
	case <-ctx.Done():
		t.leave(run.UID, s)
		return "", nil, context.Cause(ctx)
	}
	if s.err != nil {
		t.leave(run.UID, s)
		return "", nil, s.err
	}
	return s.text, sync.OnceFunc(func() { t.leave(run.UID, s) }), nil
}

// join adds a reader to a text, which is fetched if it is not there.
func (t *texts) join(ctx context.Context, run streamer.Run, bytes int) (*sharedText, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.byUID[run.UID]
	if s == nil {
		if !t.makeRoom(run.Namespace, bytes) {
			return nil, streamer.ErrBusy
		}
		s = &sharedText{done: make(chan struct{}), namespace: run.Namespace}
		t.byUID[run.UID] = s
		t.resize(s, bytes)
		go t.fetch(logr.NewContext(context.WithoutCancel(ctx), logr.Discard()), run, s)
	}
	if s.linger != nil {
		s.linger.Stop()
		s.linger = nil
	}
	s.readers++
	return s, nil
}

// makeRoom drops texts without readers until there is room for another, and
// reports whether there is. One that is still being read takes its memory whether
// or not anybody waits for it.
func (t *texts) makeRoom(namespace string, bytes int) bool {
	inAll := func() bool { return t.bytes+bytes <= maxTextBytes }
	inOne := func() bool { return t.namespaces[namespace]+bytes <= maxTextBytesOfOne }
	for uid, s := range t.byUID {
		if inAll() && inOne() {
			break
		}
		if s.readers == 0 && s.fetched() && (s.namespace == namespace || inOne()) {
			s.linger.Stop()
			t.drop(uid, s)
		}
	}
	return inAll() && inOne()
}

func (s *sharedText) fetched() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// resize changes what a text takes.
func (t *texts) resize(s *sharedText, bytes int) {
	t.bytes += bytes - s.bytes
	if t.namespaces[s.namespace] += bytes - s.bytes; t.namespaces[s.namespace] == 0 {
		delete(t.namespaces, s.namespace)
	}
	s.bytes = bytes
}

// fetch reads a text, unless its readers went while others were read.
func (t *texts) fetch(ctx context.Context, run streamer.Run, s *sharedText) {
	t.reads <- struct{}{} // each ends in time
	defer func() { <-t.reads }()
	if t.forsaken(run.UID, s) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, textTimeout)
	defer cancel()
	text, err := t.read(ctx, run)
	t.mu.Lock()
	defer t.mu.Unlock()
	s.text, s.err = text, err
	close(s.done)
	if t.byUID[run.UID] != s {
		return
	}
	t.resize(s, len(text))
	if err != nil || s.readers == 0 {
		// The next reader tries again.
		t.drop(run.UID, s)
	}
}

// forsaken says whether nobody waits for a text, which is dropped then: nobody can
// join it any more.
func (t *texts) forsaken(uid string, s *sharedText) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.readers > 0 {
		return false
	}
	t.drop(uid, s)
	return true
}

// leave takes a reader away from a text.
func (t *texts) leave(uid string, s *sharedText) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.readers--; s.readers > 0 || t.byUID[uid] != s {
		return
	}
	s.linger = time.AfterFunc(textLinger, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if s.readers == 0 && s.fetched() {
			t.drop(uid, s)
		}
	})
}

func (t *texts) drop(uid string, s *sharedText) {
	if t.byUID[uid] == s {
		delete(t.byUID, uid)
		t.resize(s, 0)
	}
}

// read reads an answer from where it is kept.
func (t *texts) read(ctx context.Context, of streamer.Run) (string, error) {
	run := &v1alpha1.ChatRun{}
	err := t.live.Get(ctx, types.NamespacedName{Namespace: of.Namespace, Name: of.Name}, run)
	switch {
	case apierrors.IsNotFound(err), err == nil && string(run.UID) != of.UID:
		return "", streamer.ErrNotFound
	case err != nil:
		return "", fmt.Errorf("reading the run: %w", err)
	}
	text, stands, err := keptText(ctx, t.live, run)
	if out := run.Status.Output; err == nil && !stands && out != nil {
		text = out.Text // the whole is gone, this is left
	}
	return text, err
}

// keptText reads an answer from where status says that it is kept, past any
// cache. It reports false if it is gone, or never was.
func keptText(ctx context.Context, live client.Reader, run *v1alpha1.ChatRun) (string, bool, error) {
	out := run.Status.Output
	if out == nil {
		return "", false, nil
	}
	name := out.ConfigMapName + out.SecretName
	if name == "" {
		return out.Text, out.Text != "", nil
	}
	s, err := readSheet(ctx, live, run, storageOf(run), name)
	if errors.Is(err, errForeign) || err == nil && s == nil {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	return s.data[v1alpha1.StoredText], true, nil
}

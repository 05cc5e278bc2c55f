// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package places

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// t0 is when the oldest run of the tests was created.
var t0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// claim is what run i of a namespace asks, the i-th oldest, of a provider of the
// namespace's own.
func claim(namespace string, i int) Claim {
	name := fmt.Sprintf("run-%05d", i)
	return Claim{
		Key: Key{namespace, name}, UID: namespace + "/" + name,
		Provider: namespace + "/provider", Created: t0.Add(time.Duration(i) * time.Second),
	}
}

func limited(c Claim, n int) Claim { c.Limit = n; return c }

// woken collects the runs that were woken.
type woken struct {
	mu   sync.Mutex
	keys []Key
}

func (w *woken) wake(k Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.keys = append(w.keys, k)
}

func (w *woken) take() []Key {
	w.mu.Lock()
	defer w.mu.Unlock()
	keys := w.keys
	w.keys = nil
	return keys
}

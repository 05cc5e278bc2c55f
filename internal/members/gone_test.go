// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package members

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

const (
	testNamespace = "chatrun-system"
	testDuration  = 15 * time.Second
)

// lonely are members that follow nothing: what they know comes from reads.
func lonely(t *testing.T, leases ...*coordinationv1.Lease) (*Members, *fake.Clientset) {
	t.Helper()
	client := fake.NewClientset()
	for _, l := range leases {
		if err := client.Tracker().Add(l); err != nil {
			t.Fatal(err)
		}
	}
	m, err := New(Options{Client: client, Namespace: testNamespace, Name: "us", Duration: testDuration, Log: logr.Discard()})
	if err != nil {
		t.Fatal(err)
	}
	return m, client
}

func leaseOf(name string) *coordinationv1.Lease {
	seconds := int32(testDuration / time.Second)
	holder := name + "_process"
	return &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: testNamespace, Name: name, Labels: map[string]string{labelReplica: "true"}},
		Spec: coordinationv1.LeaseSpec{
			HolderIdentity: &holder, LeaseDurationSeconds: &seconds, RenewTime: &metav1.MicroTime{Time: time.Now()},
		},
	}
}

func askGone(t *testing.T, m *Members, name string, want bool) {
	t.Helper()
	got, err := m.Gone(t.Context(), "default", name)
	if err != nil || got != want {
		t.Errorf("gone: %v, %v, want %v", got, err, want)
	}
}

// TestGoneAsksPastTheWatch: a replica whose Lease our watch did not tell of yet is
// not gone, and one that renews nothing is, a whole duration later and not before.
func TestGoneAsksPastTheWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := lonely(t, leaseOf("other"))
		if got := m.State("default", "other"); got != Gone {
			t.Fatalf("state %d before anything was read", got)
		}
		askGone(t, m, "other", false)
		if got := m.State("default", "other"); got != Live {
			t.Errorf("state %d, want Live", got)
		}
		<-time.After(testDuration - 1)
		askGone(t, m, "other", false)
		<-time.After(1)
		askGone(t, m, "other", true)
	})
}

// TestDeletedLeaseIsPutBack: nobody is gone because somebody deleted its Lease,
// however often: it has to lapse.
func TestDeletedLeaseIsPutBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, client := lonely(t)
		leases := client.CoordinationV1().Leases(testNamespace)
		for range 3 {
			askGone(t, m, "other", false)
			if got := m.State("default", "other"); got != Draining {
				t.Errorf("state %d, want Draining: it takes on nothing", got)
			}
			<-time.After(testDuration - 1)
			if err := leases.Delete(t.Context(), "other", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		askGone(t, m, "other", false)
		<-time.After(testDuration)
		askGone(t, m, "other", true)
	})
}

// TestNobodyIsCalledSo: what is no name of a Lease is no replica's.
func TestNobodyIsCalledSo(t *testing.T) {
	m, _ := lonely(t)
	askGone(t, m, "No/Lease", true)
	if gone, err := Alone("us").Gone(t.Context(), "default", "other"); err != nil || !gone {
		t.Errorf("alone: %v, %v", gone, err)
	}
}

// TestGoneTakesNoLeaseOfOthers: one that is for something else is no replica's.
func TestGoneTakesNoLeaseOfOthers(t *testing.T) {
	lease := leaseOf("other")
	lease.Labels = nil
	m, client := lonely(t, lease)
	askGone(t, m, "other", true)
	if got := m.State("default", "other"); got != Gone {
		t.Errorf("state %d", got)
	}
	if list, err := client.CoordinationV1().Leases(testNamespace).List(t.Context(), metav1.ListOptions{}); err != nil || len(list.Items) != 1 {
		t.Errorf("%d Leases, %v", len(list.Items), err)
	}
}

// TestWhoLeftInOrderIsGone: also once its Lease is deleted, and for as long as runs of
// its may be found. Nothing is put in its place.
func TestWhoLeftInOrderIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, client := lonely(t)
		lease := leaseOf("other")
		m.saw(lease)
		lease = lease.DeepCopy()
		lease.Spec.HolderIdentity = nil
		m.saw(lease)
		m.missed(lease)
		askGone(t, m, "other", true)
		if list, err := client.CoordinationV1().Leases(testNamespace).List(t.Context(), metav1.ListOptions{}); err != nil || len(list.Items) != 0 {
			t.Errorf("%d Leases, %v", len(list.Items), err)
		}
		m.forget(t.Context(), "other")
		if len(m.seen) != 0 {
			t.Errorf("%v is remembered", m.seen)
		}
	})
}

// TestWhatTheWatchToldDuringAReadCounts: a replica that comes back while a read finds
// no Lease of its is neither gone nor forgotten.
func TestWhatTheWatchToldDuringAReadCounts(t *testing.T) {
	for _, ask := range []string{"Gone", "confirm"} {
		t.Run(ask, func(t *testing.T) {
			m, client := lonely(t)
			left := leaseOf("other")
			left.Spec.HolderIdentity = nil
			m.saw(left)
			before := m.seen["other"]
			client.PrependReactor("get", "leases", func(clienttesting.Action) (bool, runtime.Object, error) {
				m.saw(leaseOf("other"))
				return false, nil, nil
			})
			if ask == "Gone" {
				askGone(t, m, "other", false)
			} else if !m.confirm(t.Context(), "other", before) {
				t.Error("not settled")
			}
			m.refresh()
			if got := m.State("default", "other"); got != Live {
				t.Errorf("state %d, want Live", got)
			}
		})
	}
}

// TestAFenceWithinARenewalIsTold: whoever looked while we were not held, and nobody
// fenced us, looks again.
func TestAFenceWithinARenewalIsTold(t *testing.T) {
	m, _ := lonely(t)
	fences, told := 0, 0
	m.Observe(func() { fences++ }, func() { told++ }, func() {})
	m.mu.Lock()
	m.synced = true
	m.mu.Unlock()
	m.renewed(time.Now())
	t.Cleanup(func() { m.fence.Stop() })
	if !m.Held() || told != 1 || fences != 0 {
		t.Fatalf("held %v, told %d times, fenced %d times", m.Held(), told, fences)
	}
	m.mu.Lock()
	m.until = m.until.Add(-time.Hour) // a machine that slept
	m.mu.Unlock()
	if m.Held() {
		t.Fatal("held in its sleep")
	}
	m.renewed(time.Now())
	if !m.Held() || fences != 1 || told != 2 {
		t.Errorf("held %v, told %d times, fenced %d times", m.Held(), told, fences)
	}
}

// TestARequestThatHangsLeavesTimeForAnother: and does not fence us.
func TestARequestThatHangsLeavesTimeForAnother(t *testing.T) {
	m, _ := lonely(t)
	ctx, cancel := m.request(t.Context())
	defer cancel()
	ends, ok := ctx.Deadline()
	if left := time.Until(ends); !ok || 2*left > renewWithin(testDuration) {
		t.Errorf("a request may take %v of %v", left, renewWithin(testDuration))
	}
}

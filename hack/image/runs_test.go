// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build image

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chattest"
	"chatrun.dev/operator/test/harness"
)

const (
	// patience is for what should take a moment, on a machine that is busy.
	patience = time.Minute
	nobody   = 65532
	system   = "chatrun-system"
	// podIP is what hack/image.sh gives to the namespace that this runs in.
	podIP = "192.0.2.10"
)

// TestRunsAsTheDeploymentSays runs what is in the image as a node would: the
// Deployment's arguments and environment, its user, a root that is read-only and holds
// nothing but the image, its ServiceAccount's token and rights, and its probes.
func TestRunsAsTheDeploymentSays(t *testing.T) {
	ctx := t.Context()
	plane, err := harness.StartControlPlane(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := plane.Stop(); err != nil {
			t.Error(err)
		}
	})
	deployment := deploy(t, plane)
	pod := admit(t, plane, deployment)
	p := start(t, plane, pod)

	container := deployment.Spec.Template.Spec.Containers[0]
	for _, probe := range []*corev1.Probe{container.LivenessProbe, container.ReadinessProbe} {
		p.answers(t, container, probe)
	}
	p.confined(t)
	fake := chattest.Start(t, chattest.Always(chattest.Answer("All", " is", " well")))
	asked(t, plane, fake.URL())
	if got := p.read(t, plane); !strings.Contains(got, "All is well") {
		t.Errorf("a reader with the role of readers got %q", got)
	}
	p.ends(t, time.Duration(*deployment.Spec.Template.Spec.TerminationGracePeriodSeconds)*time.Second)
}

// deploy applies config/default, and returns its Deployment.
func deploy(t *testing.T, plane *harness.ControlPlane) *appsv1.Deployment {
	t.Helper()
	kubectl := filepath.Join(os.Getenv("KUBEBUILDER_ASSETS"), "kubectl")
	manifests, err := exec.CommandContext(t.Context(), kubectl, "kustomize", filepath.Join(repository, "config", "default")).Output()
	if err != nil {
		t.Fatalf("rendering config/default: %v", err)
	}
	deployment := &appsv1.Deployment{}
	for docs := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(manifests), 4096); ; {
		object := &unstructured.Unstructured{}
		if err := docs.Decode(object); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if object.GetKind() == "CustomResourceDefinition" {
			continue // the control plane has them
		}
		if err := plane.Client.Create(t.Context(), object); err != nil {
			t.Fatalf("%s %s: %v", object.GetKind(), object.GetName(), err)
		}
		if object.GetKind() == "Deployment" {
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, deployment); err != nil {
				t.Fatal(err)
			}
		}
	}
	return deployment
}

// admit makes the Deployment's Pod: its namespace takes none but restricted ones.
func admit(t *testing.T, plane *harness.ControlPlane, d *appsv1.Deployment) *corev1.Pod {
	t.Helper()
	pod := &corev1.Pod{ObjectMeta: d.Spec.Template.ObjectMeta, Spec: *d.Spec.Template.Spec.DeepCopy()}
	pod.Namespace, pod.Name = system, d.Name+"-0"
	if err := plane.Client.Create(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	pod.Status.Phase, pod.Status.PodIP, pod.Status.PodIPs = corev1.PodRunning, podIP, []corev1.PodIP{{IP: podIP}}
	if err := plane.Client.Status().Update(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	return pod
}

// process is the image's.
type process struct {
	cmd  *exec.Cmd
	log  *bytes.Buffer
	done chan error
}

// start unpacks the image and runs it, as the container of a pod.
func start(t *testing.T, plane *harness.ControlPlane, pod *corev1.Pod) *process {
	t.Helper()
	root := t.TempDir()
	byPlatform, _ := images(t)
	image := byPlatform["linux/amd64"]
	content, _ := filesOf(t, image)
	for name, data := range content {
		if !strings.HasSuffix(name, "/") {
			put(t, filepath.Join(root, name), data, 0o755)
		}
	}
	container := pod.Spec.Containers[0]
	project(t, plane, root, pod)
	host, port, err := net.SplitHostPort(strings.TrimPrefix(plane.Config.Host, "https://"))
	if err != nil {
		host, port, err = net.SplitHostPort(strings.TrimSuffix(plane.Config.Host, "/"))
	}
	if err != nil {
		t.Fatal(err)
	}
	env := []string{"KUBERNETES_SERVICE_HOST=" + host, "KUBERNETES_SERVICE_PORT=" + port}
	fields := map[string]string{"metadata.name": pod.Name, "metadata.uid": string(pod.UID), "status.podIP": pod.Status.PodIP, "metadata.namespace": pod.Namespace}
	expand := []string{}
	for _, e := range container.Env {
		value := e.Value
		if e.ValueFrom != nil {
			value = fields[e.ValueFrom.FieldRef.FieldPath]
		}
		if value == "" {
			t.Fatalf("unknown to this test: the environment's %s", e.Name)
		}
		env, expand = append(env, e.Name+"="+value), append(expand, "$("+e.Name+")", value)
	}
	var args []string
	for _, a := range container.Args {
		args = append(args, strings.NewReplacer(expand...).Replace(a))
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	readOnly(t, root)
	p := &process{cmd: exec.CommandContext(context.WithoutCancel(t.Context()), config.Config.Entrypoint[0], args...), log: &bytes.Buffer{}, done: make(chan error, 1)}
	security := pod.Spec.SecurityContext
	p.cmd.Dir, p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = config.Config.WorkingDir, env, p.log, p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{
		Chroot: root, Credential: &syscall.Credential{Uid: uint32(*security.RunAsUser), Gid: uint32(*security.RunAsGroup)},
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.done <- p.cmd.Wait() }()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		if t.Failed() {
			t.Logf("the manager said:\n%s", p.log)
		}
	})
	return p
}

// project writes what the kubelet mounts: the account's token, with the authority of
// the API server, and the one for other replicas.
func project(t *testing.T, plane *harness.ControlPlane, root string, pod *corev1.Pod) {
	t.Helper()
	if pod.Spec.ServiceAccountName == "" || pod.Spec.AutomountServiceAccountToken != nil && !*pod.Spec.AutomountServiceAccountToken {
		t.Fatal("the pod has no account's token")
	}
	account := filepath.Join(root, "var/run/secrets/kubernetes.io/serviceaccount")
	put(t, filepath.Join(account, "token"), tokenOf(t, plane, pod.Namespace, pod.Spec.ServiceAccountName), 0o644)
	put(t, filepath.Join(account, "ca.crt"), plane.Config.CAData, 0o644)
	put(t, filepath.Join(account, "namespace"), []byte(pod.Namespace), 0o644)
	for _, mount := range pod.Spec.Containers[0].VolumeMounts {
		for _, volume := range pod.Spec.Volumes {
			if volume.Name != mount.Name {
				continue
			}
			if volume.Projected == nil {
				t.Fatalf("unknown to this test: the volume %s", volume.Name)
			}
			for _, source := range volume.Projected.Sources {
				token := source.ServiceAccountToken
				put(t, filepath.Join(root, mount.MountPath, token.Path), tokenOf(t, plane, pod.Namespace, pod.Spec.ServiceAccountName, token.Audience), 0o644)
			}
		}
	}
}

func put(t *testing.T, path string, data []byte, mode os.FileMode) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, mode)); err != nil {
		t.Fatal(err)
	}
}

func tokenOf(t *testing.T, plane *harness.ControlPlane, namespace, account string, audiences ...string) []byte {
	t.Helper()
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: audiences}}
	of := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: account}}
	if err := plane.Client.SubResource("token").Create(t.Context(), of, request); err != nil {
		t.Fatal(err)
	}
	return []byte(request.Status.Token)
}

// readOnly makes a directory one that nobody can write to, root included.
func readOnly(t *testing.T, root string) {
	t.Helper()
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	err := syscall.Mount(root, root, "", syscall.MS_BIND, "")
	if err == nil {
		t.Cleanup(func() { _ = syscall.Unmount(root, syscall.MNT_DETACH) })
		err = syscall.Mount("", root, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, "")
	}
	if err != nil {
		t.Fatalf("making the root read-only: %v", err)
	}
	if err := os.WriteFile(filepath.Join(root, "probe"), nil, 0o600); !errors.Is(err, syscall.EROFS) {
		t.Fatalf("the root can be written to: %v", err)
	}
}

// answers waits until a probe does.
func (p *process) answers(t *testing.T, container corev1.Container, probe *corev1.Probe) {
	t.Helper()
	port := 0
	for _, named := range container.Ports {
		if named.Name == probe.HTTPGet.Port.StrVal {
			port = int(named.ContainerPort)
		}
	}
	url := fmt.Sprintf("http://%s:%d%s", podIP, port, probe.HTTPGet.Path)
	p.until(t, url, func() (bool, error) {
		resp, err := http.Get(url)
		if err != nil {
			return false, err
		}
		defer func() { _ = resp.Body.Close() }()
		return resp.StatusCode == http.StatusOK, fmt.Errorf("it answers %s", resp.Status)
	})
}

// until asks until something holds, or the manager is gone.
func (p *process) until(t *testing.T, what string, holds func() (bool, error)) {
	t.Helper()
	over := time.After(patience)
	for {
		ok, err := holds()
		if ok {
			return
		}
		select {
		case ended := <-p.done:
			t.Fatalf("%s: the manager ended: %v", what, ended)
		case <-over:
			t.Fatalf("%s: %v", what, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// confined checks what the kernel says of the process.
func (p *process) confined(t *testing.T) {
	t.Helper()
	said, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{fmt.Sprintf("Uid:\t%d\t%d", nobody, nobody), fmt.Sprintf("Gid:\t%d\t%d", nobody, nobody), "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000"} {
		if !strings.Contains(string(said), want) {
			t.Errorf("its status has no %q:\n%s", want, said)
		}
	}
}

// asked makes a run, and waits for its end.
func asked(t *testing.T, plane *harness.ControlPlane, url string) {
	t.Helper()
	provider := &v1alpha1.ChatProvider{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "fake"},
		Spec:       v1alpha1.ChatProviderSpec{Type: v1alpha1.ProviderOpenAI, BaseURL: url + "/v1", DefaultModel: "m"},
	}
	run := &v1alpha1.ChatRun{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "asked"},
		Spec:       v1alpha1.ChatRunSpec{ProviderRef: v1alpha1.ProviderReference{Name: "fake"}, Prompt: "Is all well?"},
	}
	if err := errors.Join(plane.Client.Create(t.Context(), provider), plane.Client.Create(t.Context(), run)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for run.Status.Phase != v1alpha1.PhaseSucceeded {
		if err := plane.Client.Get(ctx, types.NamespacedName{Namespace: "default", Name: "asked"}, run); err != nil {
			t.Fatalf("%v; the run: %+v", err, run.Status)
		}
	}
}

// read reads the run at the Service's port of the pod, with a token of an account that
// has the role of readers.
func (p *process) read(t *testing.T, plane *harness.ControlPlane) string {
	t.Helper()
	reader := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "reader"}}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "readers"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "chatrun-stream-reader"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "default", Name: "reader"}},
	}
	for _, o := range []client.Object{reader, binding} {
		if err := plane.Client.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+podIP+":8090/v1/namespaces/default/chatruns/asked/stream?format=text", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+string(tokenOf(t, plane, "default", "reader")))
	insecure := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer insecure.CloseIdleConnections()
	resp, err := insecure.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(resp.StatusCode, " ", string(body))
}

// ends asks it to end, as the kubelet does, and wants that in order and in time.
func (p *process) ends(t *testing.T, grace time.Duration) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-p.done:
		if err != nil {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(grace):
		t.Error("the kubelet would have killed it")
	}
	if strings.Contains(p.log.String(), "forbidden") {
		t.Error("it asked for more than its account may")
	}
}

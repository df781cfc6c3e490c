from tests.helpers import array_of, array_type, assert_same
import statevar as sv
def test_a(backend):
    v = sv.Variable(array_of(backend,[1.,2.],"float32"))
    assert v.backend == backend
    assert isinstance(v.value, array_type(backend))
    assert_same(v,[1.,2.])

"""Models of a user's robot, and the guesses of their files."""

from metarl.envs.robots.guessing.guess import guess_robot

LEG = """
<body name="{name}" pos="{x} 0 0">
  <joint name="{name}_hip" axis="0 1 0" range="-60 60"/>
  <geom type="capsule" size="0.03" fromto="0 0 0 0 0 -0.3"/>
</body>
"""

WALKER = """
<mujoco>
  {ground}
  <worldbody>
    <body name="base" pos="0 0 1">
      {base}
      <geom type="box" size="0.3 0.15 0.05"/>
      {legs}
    </body>
  </worldbody>
  <actuator>{actuators}</actuator>
  {more}
</mujoco>
"""

MOTORS = '<motor joint="left_hip" ctrlrange="-5 3"/><motor name="two" joint="right_hip" {range}/>'
RANGED = MOTORS.format(range='ctrlrange="-4 4"')
PLANE = """
<joint type="slide" axis="1 0 0"/><joint type="slide" axis="0 0 1"/>
<joint axis="0 1 0"/>
"""


def values(path):
    return {guess.key: guess.value for guess in guess_robot(path)}


def edit_model(file, old, new):
    """Replaces a text in the model beside a robot's file."""
    model = file.with_suffix(".xml")
    model.write_text(model.read_text().replace(old, new))
